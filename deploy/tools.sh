# Finds what the set-up scripts need, and brings uv if it is not there. Sourced from the repository's root.

fail() {
    echo "set-up: $1" >&2
    exit 2
}

# The distribution's own Python goes first: most that people compile themselves are without its optimisations, and a
# quarter slower. Better one that can make virtual environments at once.
find_python() {
    for needed in ensurepip sys; do
        for name in /usr/bin/python3 python3.11 python3.12 python3.13 python3; do
            path=$(command -v "$name") || continue
            if "$path" -c "import $needed, sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null; then
                echo "$path"
                return
            fi
        done
    done
    fail "no Python 3.11 or newer on PATH; install one (Debian: apt-get install python3) and try again"
}

# Debian ships venv's pip bundle in a package of its own.
ensure_venv_module() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "set-up: installing python3-venv, which Debian keeps apart from Python"
        apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null && return
    fi
    fail "$1 cannot make virtual environments; install its venv package (Debian: sudo apt-get install python3-venv)"
}

find_uv() {
    if command -v uv >/dev/null; then
        command -v uv
        return
    fi
    if [ ! -x .venv-uv/bin/uv ]; then
        echo "set-up: fetching uv, which installs the rest" >&2
        ensure_venv_module "$python" >&2
        "$python" -m venv .venv-uv
        .venv-uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1' >&2 ||
            fail "pip could not install uv; is a package index reachable?"
    fi
    echo .venv-uv/bin/uv
}

# Makes a virtual environment of exactly what a locked requirements file names, unless that is what it has already.
# locked_environment FOLDER REQUIREMENTS WHAT
locked_environment() {
    cmp -s "$2" "$1/requirements.txt" && return
    [ -w . ] || fail "this folder cannot be written; clone the repository somewhere that you may write to"
    python=$(find_python)
    uv=$(find_uv)
    echo "set-up: installing $3 into $1" >&2
    export UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=true
    "$uv" venv --quiet --clear --python "$python" "$1"
    VIRTUAL_ENV=$1 "$uv" pip sync --quiet --require-hashes "$2" ||
        fail "uv could not install $3; the lines above say why"
    cp "$2" "$1/requirements.txt"
    echo "set-up: done" >&2
}
