"""The table of `make cuda`, from recorded words of ptxas and a disassembler; nvcc is not needed."""

from build_backend import cuda_report

LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z1aIN9TileShapeE' for 'sm_80'
ptxas info    : Function properties for _Z1aIN9TileShapeE
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 696 bytes cmem[0]
ptxas info    : Compiling entry function '_Z1b' for 'sm_90'
    24 bytes stack frame, 20 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers
"""
SASS = """
        /*0150*/                   LDG.E.128.CONSTANT R4, [R2.64] ;     /* 0x00 */
        /*1a20*/                   HMMA.16816.F32 R4, R8, R12, R4 ;     /* 0x00 */
        /*1a30*/                   LDGSTS.E.BYPASS.128 [R5], [R2.64] ;  /* 0x00 */
        /*1a40*/                   STG.E.U16 [R2.64], R4 ;              /* 0x00 */
        /*1a50*/                   STL [R1], R4 ;                       /* 0x00 */
                                                                        /* 0x000fe400078e00ff */
"""


def test_ptxas_log():
    first, second = cuda_report.read_log(LOG)
    assert (first.name, first.arch, first.registers, first.stack, first.spill_bytes) == (
        "_Z1aIN9TileShapeE",
        "80",
        128,
        0,
        0,
    )
    assert (second.arch, second.registers, second.stack, second.spill_bytes) == ("90", 255, 24, 36)


def test_instructions_beyond_the_first_4_kib_count():
    kernel = cuda_report.Kernel("k", "80", tensor_core=0, local=0, generic=0)
    for line in SASS.splitlines():
        if cuda_report._INSTRUCTION.match(line):
            cuda_report._count(kernel, line)
    assert (kernel.tensor_core, kernel.local, kernel.generic) == (1, 1, 0)
    assert kernel.global_widths == {"LDG 128": 1, "LDGSTS 128": 1, "STG U16": 1}


def test_faults_name_spills_and_idle_tensor_cores():
    spills = cuda_report.Kernel("a", "80", spill_bytes=4)
    idle = cuda_report.Kernel("k<TileShape<F16, 1, 1, 1, 1, 1>>", "90", tensor_core=0)
    simple = cuda_report.Kernel("k<TileShape<F32, 1, 1, 1, 1, 1>>", "90", tensor_core=0)
    unseen = cuda_report.Kernel("k<TileShape<F16, 1, 1, 1, 1, 1>>", "90")
    assert cuda_report.faults([simple, unseen]) == []
    assert [line.split(",")[0] for line in cuda_report.faults([spills, idle, simple])] == [
        "1 kernels spill registers",
        "1 kernels have no tensor-core instruction",
    ]


def test_occupancy_bound():
    # 256 threads of 128 registers: 32768 of 65536.
    assert cuda_report.occupancy(cuda_report.Kernel("k", "80", registers=128, threads=256)) == 2
    # Few registers: the 1536 threads of sm_86 bind.
    assert cuda_report.occupancy(cuda_report.Kernel("k", "86", registers=32, threads=256)) == 6
