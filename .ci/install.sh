# shellcheck shell=bash
# Sourced by tests/run and .ci/run: gets the tools they need, quietly, and only what is missing.

# Says what begins, and when, for `durations`; a script that this one becomes goes on with the list.
step() {
    printf '\n==> %s\n' "$*"
    export STEPS_BEGUN=${STEPS_BEGUN:-}$EPOCHSECONDS" $*"$'\n'
}

# The steps that took a second or more, the longest first.
durations() {
    printf '%s%s' "$STEPS_BEGUN" "$EPOCHSECONDS" | awk '
        { at = $1; sub(/^[0-9]+ ?/, ""); if (NR > 1 && at - began >= 1) printf "%6d %s\n", at - began, name
          began = at; name = $0 }' | sort -rn
}

# Runs a command in silence; shows all it said if it fails.
quietly() {
    local output
    if ! output=$("$@" 2>&1 </dev/null); then
        printf '%s\n' "$output" >&2
        printf 'error: %s failed\n' "$*" >&2
        return 1
    fi
}

as_root() {
    if [[ $(id -u) == 0 ]]; then "$@"; else sudo -- "$@"; fi
}

# need_debian COMMAND:PACKAGE...: installs the packages of those commands that are not there.
need_debian() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    ((${#missing[@]})) || return 0
    install_debian "${missing[@]}"
}

install_debian() {
    step "installing Debian packages: $*"
    quietly as_root apt-get update
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
}

# need_cargo COMMAND CRATE VERSION [OPTION...]: builds the command from its crate unless there is one, of whatever version.
# Optimised little, since compiling these tools takes far longer than they ever run; their common dependencies are built
# once, in one target directory; an interrupted build goes on where it was.
need_cargo() {
    export PATH=$PATH:${CARGO_INSTALL_ROOT:-${CARGO_HOME:-$HOME/.cargo}}/bin
    command -v "$1" >/dev/null && return 0
    local crate=$2 version=$3
    shift 3
    step "building $crate $version (once)"
    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        CARGO_PROFILE_RELEASE_DEBUG=0 quietly cargo install --locked --version "$version" --target-dir target/tools "$@" "$crate"
}

# need_python DIR REQUIREMENT...: a Python environment of its own with these packages.
need_python() {
    local dir=$1
    shift
    [[ -f $dir/$*.ready ]] && return 0
    python3 -c 'import ensurepip' 2>/dev/null || install_debian python3-venv
    step "installing Python packages: $*"
    quietly python3 -m venv --clear "$dir"
    quietly "$dir/bin/pip" install "$@"
    touch "$dir/$*.ready"
}
