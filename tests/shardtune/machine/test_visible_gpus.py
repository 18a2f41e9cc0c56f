"""Which GPUs CUDA_VISIBLE_DEVICES leaves: numbers, UUIDs and MIG instances, listed as in NVIDIA's MIG user guide."""

import pytest

from shardtune.machine.visible_gpus import OLD_NCCL, ListedGpu, parse_listing, visible_gpus

WHOLE = """\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-5d11a0d6-0000-2b2c-524d-9e3d8d2b8a77)
GPU 2: NVIDIA A100-SXM4-80GB (UUID: GPU-e91edf3b-b297-37c1-a2a7-7601c3238fa2)
"""
DIVIDED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 3g.20gb     Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-e91edf3b-b297-37c1-a2a7-7601c3238fa2)
"""
BEFORE_R470 = """\
GPU 0: A100-SXM4-40GB (UUID: GPU-e91edf3b-b297-37c1-a2a7-7601c3238fa2)
  MIG 3g.20gb Device 0: (UUID: MIG-GPU-e91edf3b-b297-37c1-a2a7-7601c3238fa2/1/0)
  MIG 3g.20gb Device 1: (UUID: MIG-GPU-e91edf3b-b297-37c1-a2a7-7601c3238fa2/2/0)
"""
FIRST, SECOND = "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb"
WHOLE_ONE = "GPU-e91edf3b-b297-37c1-a2a7-7601c3238fa2"
OLD = ("MIG-GPU-e91edf3b-b297-37c1-a2a7-7601c3238fa2/1/0", "MIG-GPU-e91edf3b-b297-37c1-a2a7-7601c3238fa2/2/0")


def test_a_listing_has_gpus_and_their_instances() -> None:
    assert [gpu.instances for gpu in parse_listing(WHOLE)] == [(), (), ()]
    assert parse_listing(DIVIDED) == (
        ListedGpu("GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", (FIRST, SECOND), "NVIDIA A100-SXM4-40GB"),
        ListedGpu(WHOLE_ONE, model="NVIDIA A100-SXM4-40GB"),
    )
    assert parse_listing(BEFORE_R470)[0].instances == OLD
    assert parse_listing("No devices were found\n") == ()


@pytest.mark.parametrize(
    ("variable", "names"),
    [
        (None, ("0", "1", "2")),
        ("2,0", ("2", "0")),
        (" 1 , 2", ("1", "2")),
        ("GPU-e91", (WHOLE_ONE,)),
        (
            "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77,GPU-e9",
            ("GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", WHOLE_ONE),
        ),
        ("", ()),
        ("-1", ()),
        ("1,-1,2", ("1",)),
    ],
)
def test_the_variable_narrows_and_orders_them(variable: str | None, names: tuple[str, ...]) -> None:
    seen = visible_gpus(parse_listing(WHOLE), variable)
    assert (seen.names, seen.notices) == (names, ())


@pytest.mark.parametrize(
    ("variable", "names", "ignored"),
    [
        ("0,7,1", ("0",), "GPU 7"),
        ("GPU-5d", (), "GPU-5d"),  # two GPUs begin so
        ("0,GPU-e91", ("0",), "GPU-e91"),  # numbers and UUIDs do not mix
        ("NoDevFiles", (), "NoDevFiles"),
        (FIRST, (), FIRST),
    ],
)
def test_what_cuda_ignores_is_ignored_and_said(variable: str, names: tuple[str, ...], ignored: str) -> None:
    seen = visible_gpus(parse_listing(WHOLE), variable)
    assert seen.names == names
    (notice,) = seen.notices
    assert notice.startswith(f"CUDA_VISIBLE_DEVICES={variable}: nvidia-smi lists no {ignored}, so it and what follows")


def test_a_gpu_that_is_named_twice_leaves_none() -> None:
    seen = visible_gpus(parse_listing(WHOLE), "0,1,0")
    assert (seen.names, seen.notices) == ((), ("CUDA_VISIBLE_DEVICES=0,1,0 names a GPU twice, so CUDA sees none",))


@pytest.mark.parametrize(
    ("variable", "names"),
    [
        (None, (FIRST, SECOND, WHOLE_ONE)),
        ("1,0", (WHOLE_ONE, FIRST, SECOND)),
        ("0", (FIRST, SECOND)),
        ("GPU-5d5", (FIRST, SECOND)),
        (f"{SECOND},{FIRST}", (SECOND, FIRST)),
        ("MIG-cba", (SECOND,)),
    ],
)
def test_of_a_divided_gpu_each_instance_is_one(variable: str | None, names: tuple[str, ...]) -> None:
    seen = visible_gpus(parse_listing(DIVIDED), variable)
    assert seen.names == names
    num_instances = len(names) - (WHOLE_ONE in names)
    can_be_used = f"{num_instances} MIG instance{'s' if num_instances > 1 else ''} can be used, one by each rank"
    assert seen.notices == (can_be_used if num_instances == 1 else f"{can_be_used}; {OLD_NCCL}",)


def test_instances_of_old_drivers_are_known_by_their_old_names() -> None:
    assert visible_gpus(parse_listing(BEFORE_R470), ",".join(OLD)).names == OLD
