# Makes .venv and installs Flux into it. Sourced by ./demo and ./test, never run.
#
# `prepare_venv demo` or `prepare_venv test` ends with $venv_python set. What was
# installed is written down in .venv/installed-KIND, keyed by pyproject.toml and by
# where this folder is: a second run installs nothing and needs no network.

say() {
    printf '%s\n' "$*" >&2
}

stop() {
    say ""
    say "$1"
    shift
    for line in "$@"; do say "  $line"; done
    exit 2
}

# Python 3.11 or newer that can make virtual environments, in $python.
find_python() {
    old=""
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
        path=$(command -v "$candidate" 2>/dev/null) || continue
        if ! "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            old="$old $candidate"
        elif "$path" -c 'import ensurepip, venv' 2>/dev/null; then
            python=$path
            return
        else
            stop "$candidate cannot make virtual environments: its module ensurepip is missing." \
                "Debian, Ubuntu: apt-get install python3-venv"
        fi
    done
    stop "Flux needs Python 3.11 or newer.${old:+ Found, but too old or broken:$old.}" \
        "Debian, Ubuntu: apt-get install python3 python3-venv" \
        "or name one:    PYTHON=/path/to/python3.11 $0"
}

prepare_venv() {
    kind=$1
    [ "$(uname -s)" = Linux ] || stop "Flux runs on Linux; this is $(uname -s)."
    [ "$(uname -m)" = x86_64 ] || stop "Flux runs on x86_64; this is $(uname -m): its sandbox would refuse at the end."
    venv_python=$PWD/.venv/bin/python
    if ! "$venv_python" -c 'import pip' 2>/dev/null; then
        find_python
        say "making .venv with $python"
        "$python" -m venv --clear .venv || stop "the virtual environment could not be made"
    fi
    # The folder is part of the key: an installation in place points to it.
    key=$("$venv_python" -c 'import hashlib, os, sys
sources = open("pyproject.toml", "rb").read() + os.getcwdb() + sys.version.encode()
print(hashlib.sha256(sources).hexdigest())') || stop "pyproject.toml cannot be read"
    for have in "$kind" test; do  # What tests need includes what the demo needs.
        [ "$(cat ".venv/installed-$have" 2>/dev/null)" = "$key" ] && return
    done
    case $kind in
        test) what='.[test]' ;;
        *) what='.' ;;
    esac
    say "installing Flux into .venv (the only step that needs the network)"
    "$venv_python" -m pip install --quiet --disable-pip-version-check --editable "$what" || stop \
        "the installation failed: what pip says stands above." "Run $0 again once it can work."
    printf '%s\n' "$key" >".venv/installed-$kind"
}
