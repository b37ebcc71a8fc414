"""How much memory a model may take, where a container has less than its machine."""

from pathlib import Path

import pytest

from client_sdk.memory import memory_limit

MIB = 1 << 20
ALONE = memory_limit(Path("/nowhere"))


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_groups_it_is_half_of_the_machine() -> None:
    assert ALONE > MIB


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{64 * MIB}\n"},
            32 * MIB,
        ),
        (
            {
                "proc/self/cgroup": "0::/user.slice/job.scope\n",
                "sys/fs/cgroup/user.slice/memory.max": f"{20 * MIB}\n",
                "sys/fs/cgroup/user.slice/job.scope/memory.max": "max\n",
            },
            10 * MIB,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu:/\n4:hugetlb,memory:/docker/3f9a\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{48 * MIB}\n",
            },
            24 * MIB,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, ALONE),
    ],
    ids=["a container", "the group above", "version 1 in a container", "no limit"],
)
def test_a_group_that_has_less_counts(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert memory_limit(written(tmp_path, files)) == expected
