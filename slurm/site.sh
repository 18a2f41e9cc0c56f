#!/bin/bash
# What all scripts here begin with: the site's preamble, Python, the container. No job by itself.
# shellcheck disable=SC2034,SC2154 # from and for whoever sources it

# ---- The job.
say() { echo "shardtune: $*" >&2; }

die() {
    say "$1"
    exit 2
}

enter_site() {
    if [[ ${SHARDTUNE_PREAMBLE:-} ]]; then
        set +u # module systems are full of unset variables
        # shellcheck source=/dev/null
        source "$SHARDTUNE_PREAMBLE" || die "$SHARDTUNE_PREAMBLE: the preamble has failed on $SLURMD_NODENAME"
        set -u
    fi
}
enter_site

# No module of the working directory is imported: a random.py there is not the one that torch means.
export PYTHONSAFEPATH=1
searched=
while IFS= read -r -d : folder; do
    [[ ! $folder || $folder == . || $folder == "$PWD" ]] || searched+=${searched:+:}$folder
done <<<"${PYTHONPATH:-}:"
export PYTHONPATH=$searched
[[ $PYTHONPATH ]] || unset PYTHONPATH

if [[ -f $code_dir/pyproject.toml ]]; then # a clone; what is installed is found without
    export PYTHONPATH=$code_dir${PYTHONPATH:+:$PYTHONPATH}
fi
python=${SHARDTUNE_PYTHON:-}
if [[ ! $python && ! ${SHARDTUNE_CONTAINER:-} ]]; then
    for folder in "${VIRTUAL_ENV:-}" "$code_dir/.venv" "$PWD/.venv"; do
        [[ ! $python && $folder && -x $folder/bin/python ]] && python=$folder/bin/python
    done
fi
: "${python:=python3}"

step_options=()  # of every srun
inside=()        # before every program on a node
on_first_node=() # before every program that this shell needs
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
    *) die "SHARDTUNE_CONTAINER_RUNTIME: got $SHARDTUNE_CONTAINER_RUNTIME; legal: pyxis, apptainer" ;;
    esac
fi
