// What this machine's processor can do, found once.
#ifndef MOED_BASE_CPU_INFO_H_
#define MOED_BASE_CPU_INFO_H_

#include <optional>
#include <string_view>

namespace moed {

// The instruction sets for which the CPU bodies of the ops are compiled; each includes those before it.
enum class Isa {
  kGeneric,     // what the compiler's baseline allows
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // F, BW, CD, DQ, VL
  kAvx512Vnni,  // and 8-bit dot products
  kAvx512Bf16,  // and bf16 dot products
};

// The best that processor and operating system support.
Isa BestIsa();

// "generic", "avx2", "avx512", "avx512_vnni", "avx512_bf16".
std::string_view IsaName(Isa isa);
std::optional<Isa> ParseIsa(std::string_view name);

// Processors that this process may run on (its affinity mask), at least 1.
int NumUsableCpus();

}  // namespace moed

#endif  // MOED_BASE_CPU_INFO_H_
