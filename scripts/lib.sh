# What the scripts share: Debian packages, the virtual environment, the installed checkout. Sourced, in the checkout's root.

say() { echo "fastvhost: $*" >&2; }
fail() { say "$*"; exit 1; }

# Prints those of its arguments, Debian packages, that are not installed.
missing_packages() {
    local package
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
    done
}

# Installs what is missing when root; otherwise says in one line what to install.
need_packages() {
    local missing
    command -v dpkg-query >/dev/null || fail "this is no Debian; install the equivalents of: $*"
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || fail "packages are missing; as root: apt-get update && apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >&2
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# Prints the interpreter to use: python3 on PATH, 3.11 or newer.
find_python() {
    local python
    python=$(command -v python3) || fail "there is no python3; as root: apt-get install python3"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$python" --version) is too old, 3.11 is wanted; put a newer python3 on PATH"
    echo "$python"
}

has_headers() { "$1" -c 'import pathlib, sys, sysconfig; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())'; }
has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# Prints which interpreter this is, whether it is called by its own name, by a link or in a virtual environment.
interpreter() { "$1" -c 'import sys; print(sys.base_prefix, sys.version)'; }

# Installs a compiler, and the parts of the interpreter that Debian packages separately; or says what is missing.
need_build_tools() {
    local python=$1 packages=(gcc libc6-dev) version
    if [ "$("$python" -c 'import os, sys; print(os.path.dirname(os.path.realpath(sys.executable)))')" = /usr/bin ]; then
        version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        has_headers "$python" || packages+=("lib$version-dev" "$version-dev")
        has_venv "$python" || packages+=("$version-venv")
    fi
    if ! command -v gcc >/dev/null || command -v dpkg-query >/dev/null || [ ${#packages[@]} -gt 2 ]; then
        need_packages "${packages[@]}"
    fi
    has_headers "$python" || fail "$python lacks its headers (Python.h); install them, or put another python3 on PATH"
    has_venv "$python" || fail "$python lacks the modules venv and ensurepip; install them, or put another python3 on PATH"
}

# Makes .venv where it is missing or belongs to another interpreter, and installs the checkout into it in editable form:
# what is compiled lies beside its source, and whatever runs in the checkout or in .venv runs the same copy.
# install_checkout EXTRAS, where EXTRAS is empty or [name]. Nothing happens where nothing changed since the last time.
install_checkout() {
    local extras=$1 python
    python=$(find_python)
    need_build_tools "$python"
    # One at a time. A child that outlives its script keeps the lock as well; who waits for it finds the work done.
    exec {turn}> .venv.lock
    flock -n "$turn" || { say "waiting for another that installs this checkout"; flock "$turn"; }
    install_into_venv "$extras" "$python"
    exec {turn}>&-
}

install_into_venv() {
    local extras=$1 python=$2 stamp newer=
    # A .venv without pip was not finished.
    if [ "$(interpreter .venv/bin/python 2>/dev/null)" != "$(interpreter "$python")" ] || [ ! -x .venv/bin/pip ]; then
        say "making .venv"
        rm -rf .venv
        "$python" -m venv .venv
    fi
    # What the tests need stays installed, also when a later call does not ask for it.
    [ ! -e ".venv/installed[test]" ] || extras="[test]"
    stamp=.venv/installed$extras
    if [ -e "$stamp" ]; then
        newer=$(find fastvhost tests setup.py pyproject.toml -type f -newer "$stamp" \
            \( -name '*.py[xi]' -o -name '*.pxd' -o -name '*.h' -o -name setup.py -o -name '*.toml' \) -print -quit)
        [ -n "$newer" ] || return 0
    fi
    say "building and installing the checkout into .venv; this takes a minute or two"
    rm -f .venv/installed*
    FASTVHOST_PROBES=${extras:+1} .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".$extras" >&2
    touch "$stamp"
}
