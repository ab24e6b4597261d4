#!/usr/bin/env python3
"""Compiles the CUDA bodies and reads the compiler's report: no kernel may spill registers or keep a stack frame.

Either goes through memory where nobody sees it, and costs more than any other single mistake.

  resource_usage_test.py --nvcc nvcc --arch 80 --arch 90a [FILE.cu ...]    all of kernels/ where no file is named
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[3]

KERNEL = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


def short_name(mangled):
    """The last of a mangled name's parts that ends in Kernel, with what its template arguments look like."""
    match = re.search(r"\d+([A-Z]\w*?Kernel)(\w*?)Ev", mangled)
    return match.group(1) + match.group(2) if match else mangled


def report_of(nvcc, file, arch):
    """The compiler's report on one file for one architecture."""
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, "-std=c++20", "-O3", f"-gencode=arch=compute_{arch},code=sm_{arch}", "-DMOED_HAVE_CUDA=1",
                   f"-I{ROOT}", f"-I{ROOT / 'src'}", "-Xptxas", "-v", "-cubin", "-o", f"{folder}/out.cubin", str(file)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")
    return result.stderr


def frames(report):
    """Yields (kernel, architecture, stack, stores, loads) of each kernel of a report."""
    kernel = None
    for line in report.splitlines():
        if match := KERNEL.search(line):
            kernel = match.groups()
        elif kernel and (match := FRAME.search(line)):
            yield (*kernel, *map(int, match.groups()))
            kernel = None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--arch", action="append", required=True, help="80, 86, 89, 90a; may be repeated")
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    args = parser.parse_args()
    files = args.files or sorted(ROOT.glob("kernels/*/*_cuda.cu"))
    failures = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {pool.submit(report_of, args.nvcc, file, arch): (file, arch) for file in files for arch in args.arch}
        for job in concurrent.futures.as_completed(jobs):
            file, arch = jobs[job]
            kernels = list(frames(job.result()))
            bad = [kernel for kernel in kernels if any(kernel[2:])]
            print(f"{file.name} for sm_{arch}: {len(kernels)} kernels, {len(bad)} with spills or a stack frame", flush=True)
            for name, _, stack, stores, loads in bad:
                print(f"  {short_name(name)}: stack frame {stack}, spill stores {stores}, spill loads {loads} bytes")
            if not kernels:
                print("  no kernel was found: is the report's form another?")
            failures += len(bad) + (not kernels)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
