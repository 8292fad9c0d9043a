# shellcheck shell=bash
#
# Sourced by scripts/test and scripts/demo: installs what they need and finds missing, on a
# Debian or Ubuntu that has nothing but Rust. All goes into .cache/ beside the sources, except
# the system's own packages. When everything is there it says nothing and takes no time.
#
#   setup_rust          cargo, a C compiler, git
#   setup_lints         rustfmt and clippy
#   setup_bubblewrap    what keeps agents' commands inside their worktrees
#   setup_homeserver    Synapse and matrix-nio in .cache/venv
#   setup_clis          the CLIs of agents in .cache/npm: Claude Code, Codex, an ACP agent
#   setup_cargo_deny    cargo-deny in .cache/cargo; the one that may fail: returns 1
#
# It leaves ROOT, CACHE and PYTHON behind.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=$ROOT/.cache
PYTHON=$CACHE/venv/bin/python

# The versions that the runtimes were written against and are tested with.
CLI_PACKAGES=(
    @anthropic-ai/claude-code@2.1.197
    @openai/codex@0.169.0
    @agentclientprotocol/claude-agent-acp@0.100.0
)
CLIS=(claude codex claude-agent-acp)
CARGO_DENY_VERSION=0.20.2

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Runs a command that takes long: says what it is and how it goes, shows its output if it fails.
with_progress() {
    local what=$1 began=$SECONDS log status=0 job shown=0 old_trap
    shift
    log=$(mktemp)
    printf '%s …\n' "$what"
    "$@" >"$log" 2>&1 </dev/null &
    job=$!
    # A script's background jobs do not hear Ctrl-C.
    old_trap=$(trap -p INT)
    trap 'kill "$job" 2>/dev/null; exit 130' INT
    while kill -0 "$job" 2>/dev/null; do
        sleep 0.2
        if ((SECONDS - began >= shown + 10)); then
            shown=$((SECONDS - began))
            printf '  %d s: %s\n' "$shown" "$(tail -n 1 "$log" | tr -d '\r' | cut -c1-100)"
        fi
    done
    wait "$job" || status=$?
    trap - INT
    eval "$old_trap"
    if ((status == 0)); then
        printf '  done in %d s\n' $((SECONDS - began))
    else
        tail -n 30 "$log" >&2
    fi
    rm -f "$log"
    return "$status"
}

# Only one script at a time may install.
lock_cache() {
    mkdir -p "$CACHE"
    exec 9>"$CACHE/lock"
    flock -n 9 || {
        echo "waiting for another setup to end …"
        flock 9
    }
}

unlock_cache() {
    exec 9>&-
}

# Installs the named Debian packages, as root or through sudo.
install_packages() {
    local as_root=()
    command -v apt-get >/dev/null ||
        die "please install these, or what your system calls them: $*"
    if [[ $(id -u) != 0 ]]; then
        command -v sudo >/dev/null || die "please run as root: apt-get install $*"
        sudo -v || die "please run as root: apt-get install $*"
        as_root=(sudo)
    fi
    with_progress "updating the package lists" "${as_root[@]}" apt-get update -q ||
        echo "the package lists could not be updated; trying with the old ones"
    with_progress "installing the packages $*" "${as_root[@]}" \
        env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" ||
        die "apt-get could not install: $*"
}

# need PACKAGE COMMAND…: installs PACKAGE unless COMMAND succeeds. Collected, so that apt runs once.
MISSING=()
need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || MISSING+=("$package")
}

install_missing() {
    ((${#MISSING[@]})) || return 0
    install_packages "${MISSING[@]}"
    MISSING=()
}

setup_bubblewrap() {
    need bubblewrap command -v bwrap
    install_missing
}

setup_rust() {
    if ! command -v cargo >/dev/null && [[ -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo ]]; then
        PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    fi
    command -v cargo >/dev/null || die "Rust is missing: see https://rustup.rs, then run this again"
    need git command -v git
    need build-essential command -v cc
    install_missing
    at_least 2.38 "$(git version | grep -oE '[0-9]+\.[0-9]+' | head -n 1)" ||
        die "git 2.38 or later is needed (merges without a checkout); this is $(git version)"
}

# A minimal toolchain has neither.
setup_lints() {
    local part missing=()
    for part in fmt clippy; do
        cargo "$part" --version >/dev/null 2>&1 || missing+=("${part/#fmt/rustfmt}")
    done
    ((${#missing[@]})) || return 0
    command -v rustup >/dev/null ||
        die "${missing[*]} is missing: install it with what your Rust came with"
    with_progress "adding ${missing[*]} to the toolchain" rustup component add "${missing[@]}" ||
        die "rustup could not add ${missing[*]}: run \`rustup component add ${missing[*]}\`"
}

# at_least WANTED HAVE
at_least() {
    printf '%s\n%s\n' "$1" "$2" | sort -V -C
}

setup_homeserver() {
    local pins=$ROOT/scripts/lib/requirements.txt stamp=$CACHE/venv/installed
    if [[ -x $PYTHON ]] && cmp -s "$pins" "$stamp"; then
        return
    fi
    need python3 command -v python3
    need python3-venv python3 -c 'import ensurepip, venv'
    need ca-certificates test -e /etc/ssl/certs/ca-certificates.crt
    install_missing
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "Synapse needs Python 3.10 or later; this is $(python3 --version)"
    lock_cache
    rm -rf "$CACHE/venv"
    with_progress "making a Python environment in .cache/venv" python3 -m venv "$CACHE/venv" ||
        die "python3 -m venv failed"
    with_progress "installing Synapse and matrix-nio into it" \
        "$PYTHON" -m pip install --disable-pip-version-check --no-input --progress-bar off --only-binary :all: \
        -r "$pins" ||
        die "pip could not install Synapse and matrix-nio; is the network there?"
    cp "$pins" "$stamp"
    unlock_cache
}

setup_clis() {
    local stamp=$CACHE/npm/installed bin=$CACHE/npm/node_modules/.bin cli missing=0
    for cli in "${CLIS[@]}"; do
        [[ -x $bin/$cli ]] || missing=1
    done
    if ((missing == 0)) && [[ $(cat "$stamp" 2>/dev/null) == "${CLI_PACKAGES[*]}" ]]; then
        return
    fi
    need nodejs command -v node
    need npm command -v npm
    install_missing
    at_least 18 "$(node --version | tr -d v)" ||
        die "the CLIs of agents need Node.js 18 or later; this is $(node --version)"
    lock_cache
    rm -rf "$CACHE/npm"
    mkdir -p "$CACHE/npm"
    with_progress "installing ${CLI_PACKAGES[*]} into .cache/npm" \
        npm install --prefix "$CACHE/npm" --no-audit --no-fund --loglevel=error \
        "${CLI_PACKAGES[@]}" ||
        die "npm could not install the CLIs of agents; is the network there?"
    for cli in claude codex; do
        "$bin/$cli" --version >/dev/null || die "$cli does not run on this machine"
    done
    echo "${CLI_PACKAGES[*]}" >"$stamp"
    unlock_cache
}

# Built from source, unoptimised (a minute and a half instead of six): nobody publishes a current
# binary of it in a registry. What is on the PATH already will do.
setup_cargo_deny() {
    if command -v cargo-deny >/dev/null; then
        return
    fi
    PATH=$CACHE/cargo/bin:$PATH
    if [[ $(cat "$CACHE/cargo/installed" 2>/dev/null) == "$CARGO_DENY_VERSION" ]]; then
        return
    fi
    lock_cache
    with_progress "building cargo-deny $CARGO_DENY_VERSION (about two minutes, only this once)" \
        cargo install --debug --locked --root "$CACHE/cargo" "cargo-deny@$CARGO_DENY_VERSION" || {
        unlock_cache
        return 1
    }
    echo "$CARGO_DENY_VERSION" >"$CACHE/cargo/installed"
    unlock_cache
}
