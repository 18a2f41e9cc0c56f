#!/bin/bash
# The common beginning of all scripts here: the site's preamble, Python, the container. Sourced, not submitted.
# shellcheck disable=SC2034,SC2154 # variables of the script that sources it

# ---- The job.
say() { echo "shardtune: $*" >&2; }

die() {
    say "$1"
    exit 2
}

preamble_failed() {
    trap - EXIT
    die "$SHARDTUNE_PREAMBLE: the preamble ended on $SLURMD_NODENAME with exit code $1; it must succeed and must not call exit"
}

enter_site() {
    if [[ ${SHARDTUNE_PREAMBLE:-} ]]; then
        trap 'preamble_failed $?' EXIT # one that calls exit would end the job without a word
        set +u                         # module systems use unset variables
        # shellcheck source=/dev/null
        source "$SHARDTUNE_PREAMBLE" || preamble_failed $?
        trap - EXIT
        set +e -u
    fi
}
enter_site

# Of a script from standard input, as `shardtune submit` sends it, Slurm knows no path: it says (null), which must not be
# taken for a folder of the working directory.
[[ $code_dir == /* ]] || code_dir=/dev/null

# Nothing is imported from the working directory: a random.py there must not replace the one that torch imports.
export PYTHONSAFEPATH=1
searched=
while IFS= read -r -d : folder; do
    [[ ! $folder || $folder == . || $folder == "$PWD" ]] || searched+=${searched:+:}$folder
done <<<"${PYTHONPATH:-}:"
export PYTHONPATH=$searched
[[ $PYTHONPATH ]] || unset PYTHONPATH

if [[ -f $code_dir/pyproject.toml ]]; then # a checkout; an installed package is found without it
    export PYTHONPATH=$code_dir${PYTHONPATH:+:$PYTHONPATH}
fi
python=${SHARDTUNE_PYTHON:-}
if [[ ! $python && ! ${SHARDTUNE_CONTAINER:-} ]]; then
    for folder in "${VIRTUAL_ENV:-}" "$code_dir/.venv" "$PWD/.venv"; do
        [[ ! $python && $folder && -x $folder/bin/python ]] && python=$folder/bin/python
    done
fi
: "${python:=python3}"
[[ ${SHARDTUNE_CONTAINER:-} ]] || command -v "$python" >/dev/null ||
    die "no Python on $SLURMD_NODENAME: $python; name another one with job.python (by hand: SHARDTUNE_PYTHON)"

step_options=()  # options of every srun
inside=()        # prefix of every program on a node
on_first_node=() # prefix of every program that this shell runs
if [[ ${SHARDTUNE_CONTAINER:-} ]]; then
    mounts=$PWD:$PWD${SHARDTUNE_CONTAINER_MOUNTS:+,$SHARDTUNE_CONTAINER_MOUNTS}
    [[ -d $code_dir ]] && mounts+=,$code_dir:$code_dir
    case ${SHARDTUNE_CONTAINER_RUNTIME:=pyxis} in
    pyxis)
        step_options=("--container-image=$SHARDTUNE_CONTAINER" "--container-mounts=$mounts")
        on_first_node=(srun --nodes=1 --ntasks=1 --overlap "${step_options[@]}")
        ;;
    apptainer)
        inside=(apptainer exec --nv --bind "$mounts" "$SHARDTUNE_CONTAINER")
        on_first_node=("${inside[@]}")
        ;;
    *) die "SHARDTUNE_CONTAINER_RUNTIME: expected pyxis or apptainer, got $SHARDTUNE_CONTAINER_RUNTIME" ;;
    esac
fi
