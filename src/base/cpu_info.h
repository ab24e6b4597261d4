// What this machine's processor can do, found once.
#ifndef MOED_BASE_CPU_INFO_H_
#define MOED_BASE_CPU_INFO_H_

#include <optional>
#include <string_view>

namespace moed {

// The instruction sets for which the CPU bodies of the ops are compiled, the better one behind; each includes those
// before it, except that processors with AVX-512 may lack AVX-VNNI.
enum class Isa {
  kGeneric,     // what the compiler's baseline allows
  kAvx2,        // AVX2, FMA, F16C
  kAvxVnni,     // and 8-bit dot products
  kAvx512,      // F, BW, CD, DQ, VL
  kAvx512Vnni,  // and 8-bit dot products
  kAvx512Bf16,  // and bf16 dot products
  kAmx,         // and tiles of 8-bit integers and of bf16
};

// The best that processor and operating system support. (The first call asks Linux to let this process use tiles.)
Isa BestIsa();
// Whether they support this one.
bool IsUsable(Isa isa);

// "generic", "avx2", "avx_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx".
std::string_view IsaName(Isa isa);
std::optional<Isa> ParseIsa(std::string_view name);

// Processors that this process may run on (its affinity mask), at least 1.
int NumUsableCpus();

}  // namespace moed

#endif  // MOED_BASE_CPU_INFO_H_
