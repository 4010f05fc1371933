/* Hand every byte on after a fixed time: a long line between a client and a server.
 *
 *     delay LISTEN-PORT SERVER-PORT MICROSECONDS-EACH-WAY
 *
 * Listens on every address, connects to the server on loopback, and says "ready" on stdout once
 * it listens. Bytes are delayed, the handshake is not: a new connection costs no round trip. What
 * is under way in one direction of one connection is bounded, and what stays behind waits in the
 * sender's socket, as on a line.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PIECE (256 << 10)
#define UNDER_WAY (32 << 20)
#define MOST 512 /* connections */

struct piece {
    struct piece *next;
    long long due;
    size_t start, end;
    char bytes[];
};

struct way {
    struct piece *first, **last;
    size_t held;
    int ended;    /* the sender has said its last word, which is in the queue */
    int finished; /* and the receiver has it */
};

struct line {
    int ends[2];
    struct way ways[2]; /* ways[0] leads from ends[0] to ends[1] */
};

static struct line lines[MOST];
static int count;
static long long delay;

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int tuned(int fd)
{
    int yes = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) < 0)
        err(1, "TCP_NODELAY");
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        err(1, "O_NONBLOCK");
    return fd;
}

static void accept_one(int listener, int server_port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(server_port)};
    int client = accept(listener, NULL, NULL), server;
    if (client < 0)
        return;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (server < 0)
        err(1, "socket");
    if (count == MOST || connect(server, (struct sockaddr *)&to, sizeof to) < 0) {
        close(client);
        close(server);
        return;
    }
    struct line *line = &lines[count++];
    memset(line, 0, sizeof *line);
    line->ends[0] = tuned(client);
    line->ends[1] = tuned(server);
    for (int i = 0; i < 2; i++)
        line->ways[i].last = &line->ways[i].first;
}

/* -1 when the connection is broken. */
static int take(struct way *way, int from)
{
    struct piece *piece = malloc(sizeof *piece + PIECE);
    if (piece == NULL)
        err(1, "malloc");
    ssize_t got = read(from, piece->bytes, PIECE);
    if (got <= 0) {
        int broken = got < 0 && errno != EAGAIN;
        if (got == 0)
            way->ended = 1;
        if (got < 0) {
            free(piece);
            return broken ? -1 : 0;
        }
    }
    piece = realloc(piece, sizeof *piece + (got ? got : 1));
    piece->next = NULL;
    piece->due = now() + delay;
    piece->start = 0;
    piece->end = got; /* an empty one is the end */
    *way->last = piece;
    way->last = &piece->next;
    way->held += got;
    return 0;
}

static int give(struct way *way, int to)
{
    while (way->first != NULL && way->first->due <= now()) {
        struct piece *piece = way->first;
        if (piece->end == 0) {
            shutdown(to, SHUT_WR);
            way->finished = 1;
        }
        while (piece->start < piece->end) {
            ssize_t put = send(to, piece->bytes + piece->start, piece->end - piece->start,
                               MSG_NOSIGNAL);
            if (put < 0)
                return errno == EAGAIN ? 0 : -1;
            piece->start += put;
            way->held -= put;
        }
        way->first = piece->next;
        if (way->first == NULL)
            way->last = &way->first;
        free(piece);
    }
    return 0;
}

static void drop(int number)
{
    struct line *line = &lines[number];
    for (int i = 0; i < 2; i++) {
        close(line->ends[i]);
        while (line->ways[i].first != NULL) {
            struct piece *piece = line->ways[i].first;
            line->ways[i].first = piece->next;
            free(piece);
        }
    }
    count--;
    if (number == count)
        return;
    *line = lines[count];
    for (int i = 0; i < 2; i++) /* an empty queue's end is in the moved struct */
        if (line->ways[i].first == NULL)
            line->ways[i].last = &line->ways[i].first;
}

int main(int argc, char **argv)
{
    static struct pollfd polled[1 + 2 * MOST];
    struct sockaddr_in at = {.sin_family = AF_INET};
    int yes = 1, listener;

    if (argc != 4)
        errx(2, "delay LISTEN-PORT SERVER-PORT MICROSECONDS-EACH-WAY");
    at.sin_port = htons(atoi(argv[1]));
    delay = atoll(argv[3]) * 1000;
    prctl(PR_SET_TIMERSLACK, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) < 0 || listen(listener, MOST) < 0)
        err(1, "port %s", argv[1]);
    puts("ready");
    fflush(stdout);
    for (;;) {
        long long soonest = -1, time = now();
        polled[0] = (struct pollfd){.fd = listener, .events = POLLIN};
        for (int n = 0; n < count; n++)
            for (int i = 0; i < 2; i++) {
                struct way *in = &lines[n].ways[i], *out = &lines[n].ways[!i];
                short events = 0;
                if (!in->ended && in->held < UNDER_WAY)
                    events |= POLLIN;
                if (out->first != NULL && out->first->due <= time)
                    events |= POLLOUT;
                if (in->first != NULL && in->first->due > time &&
                    (soonest < 0 || in->first->due < soonest))
                    soonest = in->first->due;
                polled[1 + 2 * n + i] = (struct pollfd){.fd = lines[n].ends[i], .events = events};
            }
        long long rest = soonest < 0 ? 0 : soonest - time;
        struct timespec wait = {rest / 1000000000LL, rest % 1000000000LL};
        int before = count;
        if (ppoll(polled, 1 + 2 * count, soonest < 0 ? NULL : &wait, NULL) < 0 && errno != EINTR)
            err(1, "ppoll");
        for (int n = before - 1; n >= 0; n--) {
            struct line *line = &lines[n];
            int broken = 0;
            for (int i = 0; i < 2; i++) {
                struct pollfd *told = &polled[1 + 2 * n + i];
                /* A reset is seen at once; a hang-up still has its last bytes to be taken. */
                if (told->revents & (POLLERR | POLLNVAL))
                    broken = 1;
                else if (told->revents & (POLLIN | POLLHUP) && !line->ways[i].ended)
                    broken |= take(&line->ways[i], line->ends[i]) < 0;
            }
            for (int i = 0; i < 2; i++)
                broken |= give(&line->ways[i], line->ends[!i]) < 0;
            if (broken || (line->ways[0].finished && line->ways[1].finished))
                drop(n);
        }
        if (polled[0].revents & POLLIN)
            accept_one(listener, atoi(argv[2]));
    }
}
