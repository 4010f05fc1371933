/* The readers of the benchmarks: small enough that what is measured is the file system.
 *
 *   walk lstat|read ROOT LIST READERS
 *
 * LIST holds paths below ROOT, each ended by a NUL. READERS processes take them from a shared
 * counter, in order. Prints "<nanoseconds> <paths> <bytes>": from the start signal, which every
 * reader waits for, to the end of the last. Any error ends it with code 1.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 1 << 17 };

struct shared {
    atomic_long next;
    atomic_long bytes;
};

static char *load(const char *name, size_t *size)
{
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st))
        err(1, "%s", name);
    char *text = malloc(st.st_size + 1);
    if (!text)
        err(1, "malloc");
    for (off_t got = 0; got < st.st_size;) {
        ssize_t n = read(fd, text + got, st.st_size - got);
        if (n <= 0)
            err(1, "%s", name);
        got += n;
    }
    close(fd);
    *size = st.st_size;
    return text;
}

static char **split(char *text, size_t size, long *count)
{
    long found = 0;
    for (size_t i = 0; i < size; i++)
        found += text[i] == '\0';
    char **paths = malloc((found + 1) * sizeof *paths);
    if (!paths)
        err(1, "malloc");
    char *at = text;
    for (long i = 0; i < found; i++) {
        paths[i] = at;
        at += strlen(at) + 1;
    }
    *count = found;
    return paths;
}

static void lstat_one(int root, const char *path)
{
    struct stat st;
    if (fstatat(root, path, &st, AT_SYMLINK_NOFOLLOW))
        err(1, "lstat %s", path);
}

static long read_one(int root, const char *path, char *buffer)
{
    int fd = openat(root, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        err(1, "open %s", path);
    long total = 0;
    ssize_t n;
    while ((n = read(fd, buffer, BUFFER)) > 0)
        total += n;
    if (n < 0)
        err(1, "read %s", path);
    if (close(fd))
        err(1, "close %s", path);
    return total;
}

static void work(int root, char **paths, long count, int reads, struct shared *shared)
{
    char *buffer = malloc(BUFFER);
    long bytes = 0;
    if (!buffer)
        err(1, "malloc");
    for (long i; (i = atomic_fetch_add(&shared->next, 1)) < count;) {
        if (reads)
            bytes += read_one(root, paths[i], buffer);
        else
            lstat_one(root, paths[i]);
    }
    atomic_fetch_add(&shared->bytes, bytes);
    free(buffer);
}

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 5 || (strcmp(argv[1], "lstat") && strcmp(argv[1], "read")))
        errx(2, "usage: walk lstat|read ROOT LIST READERS");
    int reads = !strcmp(argv[1], "read"), readers = atoi(argv[4]), gate[2];
    size_t size;
    long count;
    char *text = load(argv[3], &size);
    char **paths = split(text, size, &count);
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int root = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (shared == MAP_FAILED || root < 0 || readers < 1 || pipe2(gate, O_CLOEXEC))
        err(1, "%s", argv[2]);

    for (int i = 0; i < readers; i++) {
        pid_t pid = fork();
        if (pid < 0)
            err(1, "fork");
        if (pid == 0) {
            char go;
            close(gate[1]);
            if (read(gate[0], &go, 1) < 0) /* returns 0 when the parent opens the gate */
                err(1, "gate");
            work(root, paths, count, reads, shared);
            exit(0);
        }
    }
    long long start = now();
    close(gate[1]);
    int failed = 0, status;
    while (wait(&status) > 0)
        failed |= status != 0;
    long long took = now() - start;
    if (failed)
        return 1;
    printf("%lld %ld %ld\n", took, count, atomic_load(&shared->bytes));
    return 0;
}
