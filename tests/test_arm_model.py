"""benchmarks/arm_model.py: which loops it finds in assembly, and what it counts in them."""

from arm_model import Loop, compile_rival, innermost_loops, products

COMPILED = """
kernel:
\tmov\tx0, 0
.L2:
\tldr\tq0, [x1], 16
.L3:
\tldr\tq1, [x2], 16
\tsdot\tv2.4s, v1.16b, v0.4b[0]
\tsmmla\tv3.4s, v1.16b, v0.16b
\tbne\t.L3
\tcbnz\tx3, .L2
\tret
"""
ENCODED = """
assembly:
  1:
    ldr q0, [x0]
  2:
    .inst 0x4f98e27a  // sdot v26.4s, v19.16b, v24.4b[0]
    tbl v1.16b, {v2.16b}, v3.16b  // a look-up
    bgt 2b
    bgt 1b
"""


def test_only_loops_without_a_loop_inside_are_found():
    (loop,) = innermost_loops(COMPILED)
    assert loop.function == "kernel"
    assert [line.split()[0] for line in loop.instructions] == ["ldr", "sdot", "smmla", "bne"]


def test_encoded_instructions_and_local_labels_are_read():
    (loop,) = innermost_loops(ENCODED)
    assert loop.function == "assembly"
    assert [line.split()[0] for line in loop.instructions] == ["sdot", "tbl", "bgt"]


def test_products_are_counted_by_instruction():
    loop = Loop("f", ("sdot a", "smmla b", "tbl c", "tbl d", "add e"))
    assert products(loop, per_tbl=8) == 16 + 32 + 2 * 8


def test_labels_in_macros_of_an_assembly_file_are_read(tmp_path):
    (tmp_path / "f.S").write_text(
        "KAI_ASM_FUNCTION_LABEL(f)\nKAI_ASM_LABEL(K_Loop)\n    sdot v0.4s, v1.16b, v2.4b[0]\n"
        "    b.ne K_Loop\n"
    )
    (loop,) = compile_rival("f.S", tmp_path, "dotprod", tmp_path)
    assert loop.function == "f"
    assert products(loop) == 16
