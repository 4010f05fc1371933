# Sourced by the scripts in bin: JS_BASE is the tree that they are in, wherever it is mounted.
JS_BASE=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
PATH=$JS_BASE/bin:$PATH
export JS_BASE PATH
