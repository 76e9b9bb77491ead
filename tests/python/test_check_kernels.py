"""The gate on spilled register tiles sees a spill, and nothing else."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import check_kernels  # noqa: E402

LISTING = """
0000000000000000 <kernel>:
   0:	mov    %rsp,%rbp
   3:	mov    -0x8(%rbp),%rax
  10:	vpbroadcastd (%rdi),%zmm0
  16:	vpdpbusd (%rsi),%zmm0,%zmm1
  {spill}
  2a:	add    $0x4,%rdi
  30:	jne    10 <kernel+0x10>
  32:	vmovdqa64 %zmm1,-0x40(%rbp)
  40:	ret
"""


def loops(spill: str):
    found = []
    for name, body in check_kernels.functions(LISTING.replace("{spill}", spill)).items():
        found += check_kernels.inner_loops(name, body)
    return found


@pytest.mark.parametrize("spill", ["1c:\tvmovdqa64 %zmm1,-0x40(%rbp)", "1c:\tvpaddd 0x20(%rsp),%zmm1,%zmm1", "1c:\tmov    0x8(%rsp),%rcx"])
def test_a_spill_inside_the_loop_is_seen(spill):
    (loop,) = loops(spill)
    assert loop.function == "kernel" and len(loop.on_stack()) == 1


def test_the_stack_outside_the_loop_is_nobodys_business():
    (loop,) = loops("1c:\tvpaddd 0x20(%rdx),%zmm1,%zmm1")
    assert len(loop.instructions) == 5 and not loop.on_stack()


def test_a_loop_that_does_not_multiply_is_not_counted():
    body = [(0x10, "mov    0x8(%rsp),%rcx"), (0x20, "jne    10 <copy+0x10>")]
    assert check_kernels.inner_loops("copy", body) == []


def test_a_folder_without_kernels_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check_kernels.py", str(tmp_path)])
    assert check_kernels.main() == 2
    assert "no compiled kernels" in capsys.readouterr().err
