#!/usr/bin/env python3
"""Plants one bug after the other in the CUDA bodies, and expects the tests of the op to find it on the CPU.

A bug is a text of a source replaced by another. The source is compiled as the build compiles it, from a copy, and linked
with the objects of the op's test; the sources themselves stay as they are.

  mutation_test.py BUILD_FOLDER [NAME ...]     all bugs, or those whose names contain one of the words
"""

import dataclasses
import pathlib
import shlex
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[3]
TILE = "kernels/gemm/tile_product_cuda.h"
WGMMA = "kernels/gemm/wgmma_product_cuda.h"
SKINNY = "kernels/gemm/skinny_product_cuda.h"
TIMEOUT_S = 240


@dataclasses.dataclass
class Bug:
    name: str
    op: str
    file: str  # which holds `right` once
    right: str
    wrong: str
    filter: str = "*"  # the tests that are to find it


BUGS = [
    Bug("gemm: no barrier between copies and products of a stage", "gemm", TILE,
        "    __syncthreads();  // this stage", "    // this stage", "*MatchesReference/bf16"),
    Bug("gemm: a wait for the stage before", "gemm", TILE,
        "ptx::CpAsyncWait<kStages - 2>();", "ptx::CpAsyncWait<kStages - 1>();", "*MatchesReference/bf16"),
    Bug("gemm: no barrier between copies and products of warpgroups", "gemm", WGMMA,
        "    __syncthreads();  // the stage", "    // the stage", "*MatchesReference/bf16"),
    Bug("gemm: a stage multiplied by warpgroups before it has come", "gemm", WGMMA,
        "ptx::CpAsyncWait<kStages - 3>();", "ptx::CpAsyncWait<kStages - 2>();", "*MatchesReference/bf16"),
    Bug("gemm: copies not shown to the products of warpgroups", "gemm", WGMMA,
        "    ptx::FenceProxyAsync();\n", "", "*MatchesReference/bf16"),
    Bug("gemm: a stage overwritten that warpgroups still multiply", "gemm", WGMMA,
        "    ptx::WgmmaWait<2>();", "    ptx::WgmmaWait<7>();", "*MatchesReference/bf16"),
    Bug("gemm: integers scaled before their products are done", "gemm", WGMMA,
        "    ptx::WgmmaWait<0>();\n    ptx::WgmmaResults(products);", "    ptx::WgmmaResults(products);",
        "*MatchesReference/int8_in_groups_of_128"),
    Bug("gemm: rows swizzled by another number than their own", "gemm", WGMMA,
        "thread % kQuads ^ first_row % 8", "thread % kQuads ^ first_row % 4", "*MatchesReference/bf16"),
    Bug("gemm: sums of the warps read before they are written", "gemm", "kernels/gemm/gemm_cuda.cu",
        "  __syncthreads();\n", "", "*MatchesReference/bf16"),
    Bug("gemm: sums of the wrong lane's rows", "gemm", SKINNY,
        "tile * kRowsPerTile + lane % 4 * 2 + i;\n      const float4", "tile * kRowsPerTile + lane % 4 + i * 4;\n      const float4",
        "*MatchesReference/bf16"),
    Bug("gemm: the last input is lost", "gemm", "kernels/gemm/operands_cuda.cu",
        "first + i < x.k ? row", "first + i < x.k - 1 ? row", "*MatchesReference/bf16"),
    Bug("gemm: the last group's scales looked for behind a whole group", "gemm", "kernels/gemm/operands_cuda.h",
        "return group + 1 < num_groups ? lines_per_group : lines_in_last_group;", "return lines_per_group;",
        "*MatchesReference/int8*"),
    Bug("moe_gating: places taken by the warp before all have read theirs", "moe_gating",
        "kernels/moe_gating/moe_gating_cuda.cu", "= pair;\n    __syncwarp();\n", "= pair;\n"),
    Bug("moe_gating: a pair counts itself among the earlier ones", "moe_gating",
        "kernels/moe_gating/moe_gating_cuda.cu", "(1u << Lane()) - 1", "(2u << Lane()) - 1"),
    Bug("moe_gating: no barrier before the sums over experts", "moe_gating",
        "kernels/moe_gating/moe_gating_cuda.cu", "    starts[expert] = before;\n  }\n  __syncthreads();\n",
        "    starts[expert] = before;\n  }\n"),
    Bug("moe_ffn: rows used before they are looked up", "moe_ffn", "kernels/moe_ffn/moe_ffn_cuda.cu",
        "-1;\n    }\n    __syncthreads();\n", "-1;\n    }\n", "*MatchesReference/bf16*"),
    Bug("moe_ffn: a row beyond the last of a tile", "moe_ffn", "kernels/moe_ffn/moe_ffn_cuda.cu",
        "    if (row >= tile.rows) return;\n    const int pair", "    if (row > tile.rows) return;\n    const int pair",
        "*MatchesReference/bf16*"),
    Bug("moe_ffn: a lane of the search for tiles left out", "moe_ffn", "kernels/moe_ffn/expert_tiles_cuda.h",
        "if (lane >= distance)", "if (lane > distance)", "*MatchesReference/bf16*"),
    Bug("attention: a tile of positions used before it is there for all", "paged_attention",
        "kernels/paged_attention/flash_attention_cuda.h", "    __syncthreads();  // the tile", "    // the tile", "*Flash*EqualsReference/0"),
    Bug("attention: a token sees the one after it", "paged_attention", "kernels/paged_attention/flash_tile_cuda.h",
        "return tile.first_end + TokenOf(row);", "return tile.first_end + TokenOf(row) + 1;", "*Flash*EqualsReference/0"),
    Bug("attention: the last part of the positions left out", "paged_attention",
        "kernels/paged_attention/flash_tile_cuda.h", "begin + i < end ? expf", "begin + i < end - 1 ? expf", "*Flash*EqualsReference/0"),
    Bug("attention: values scaled while they are still added to", "paged_attention",
        "kernels/paged_attention/flash_warpgroup_cuda.h", "    AwaitValues();\n    sums_.Rescale(factors);",
        "    sums_.Rescale(factors);\n    AwaitValues();", "*Flash*EqualsReference/0"),
    Bug("attention: keys written over while a warpgroup multiplies them", "paged_attention",
        "kernels/paged_attention/flash_warpgroup_cuda.h", "kSlots = 3;", "kSlots = 2;", "*Flash*EqualsReference/0"),
    Bug("attention: the scores of latents without the last dimensions", "paged_attention",
        "kernels/paged_attention/flash_latent_cuda.h", "part < Shape::kParts;", "part < Shape::kParts - 1;", "*Flash*EqualsReference/5"),
    Bug("attention: a value of integers with its key's scale", "paged_attention",
        "kernels/paged_attention/flash_attention_cuda.h", "p_.v_scales + row", "p_.k_scales + row", "*Flash*EqualsReference/6"),
    Bug("attention: the odd dimensions of integers taken for the even ones", "paged_attention",
        "kernels/paged_attention/flash_integers_cuda.h", "kOdd = 0x4341", "kOdd = 0x4240", "*Flash*EqualsReference/6"),
    Bug("attention: a token by itself by another body where all must have one", "paged_attention",
        "kernels/paged_attention/flash_launch_cuda.h", " && !step.ctx.batch_invariant", "", "*Flash*WhereThatIsAskedFor/0"),
    Bug("gemm: many rows by another body where all must have one", "gemm", "kernels/gemm/gemm_cuda.cu",
        " && !ctx.batch_invariant", "", "*OfAnySize/bf16"),
    Bug("moe_ffn: many rows by another body where all must have one", "moe_ffn", "kernels/moe_ffn/moe_ffn_cuda.cu",
        " || ctx.batch_invariant", "", "*OfAnySize/bf16*"),
    Bug("layer_norm: no barrier before the sums of the warps are added", "layer_norm",
        "kernels/layer_norm/layer_norm_cuda.cu", "  __syncthreads();\n", ""),
    Bug("sampling: entries counted before the bins are empty", "sampling", "kernels/sampling/sample_rows_cuda.cu",
        "= 0;\n    __syncthreads();\n", "= 0;\n"),
    Bug("sampling: the entry that fills the nucleus left out", "sampling", "kernels/sampling/sample_rows_cuda.cu",
        "/ one + 1;", "/ one;"),
    Bug("sampling: a warp's piece of a row cut short", "sampling", "kernels/sampling/sample_rows_cuda.cu",
        "min(piece_begin + piece, end)", "min(piece_begin + piece, end - 1)"),
]


def ninja_commands(build, target):
    result = subprocess.run(["ninja", "-C", str(build), "-t", "commands", target], capture_output=True, text=True,
                            check=True)
    return result.stdout.splitlines()


def build_mutant(build, folder, bug):
    """Builds the op's test with the bug in it; returns the program."""
    text = (ROOT / bug.file).read_text()
    if text.count(bug.right) != 1:
        raise RuntimeError(f"{bug.file} holds {text.count(bug.right)} times, not once: {bug.right!r}")
    mutant = folder / bug.file
    mutant.parent.mkdir(parents=True)
    mutant.write_text(text.replace(bug.right, bug.wrong))

    target = f"{bug.op}_cuda_test"
    commands = ninja_commands(build, f"tests/kernels/{target}")
    link = commands[-1]
    for command in commands:
        if f"{target}_cuda.dir" not in command or " -c " not in command:
            continue
        words = shlex.split(command)
        source, original = words[words.index("-c") + 1], words[words.index("-o") + 1]
        relative = (build / source).resolve().relative_to(ROOT)
        if (folder / relative).exists():
            words[words.index("-c") + 1] = str(folder / relative)
        object_file = str(folder / f"{relative.name}.o")
        words[words.index("-o") + 1] = object_file
        if "-MF" in words:
            words[words.index("-MF") + 1] = str(folder / "dependencies")
        # Before the other include folders, so that a header with the bug is found first.
        words.insert(next(i for i, word in enumerate(words) if word.startswith("-")), f"-I{folder}")
        subprocess.run(words, cwd=build, check=True, capture_output=True, text=True)
        link = link.replace(original, object_file)
    program = folder / "test"
    link = link.replace(f"-o tests/kernels/{target} ", f"-o {program} ")
    subprocess.run(link, cwd=build, shell=True, check=True, capture_output=True, text=True)
    return program


def is_found(build, bug):
    with tempfile.TemporaryDirectory() as folder:
        program = build_mutant(build, pathlib.Path(folder), bug)
        try:
            result = subprocess.run([program, f"--gtest_filter={bug.filter}", "--gtest_fail_fast"], cwd=ROOT,
                                    capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return True  # threads that wait for each other for ever
    if "Running 0 tests" in result.stdout:
        raise RuntimeError(f"no test has a name like {bug.filter}")
    return result.returncode != 0


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    words = sys.argv[2:]
    bugs = [bug for bug in BUGS if not words or any(word in bug.name for word in words)]
    missed = 0
    for bug in bugs:
        found = is_found(build, bug)
        print(f"{'found ' if found else 'MISSED'} {bug.name}", flush=True)
        missed += not found
    return 1 if missed or not bugs else 0


if __name__ == "__main__":
    sys.exit(main())
