#include "base/cpu_info.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

namespace moed {
namespace {

constexpr std::array<std::pair<Isa, std::string_view>, 7> kNames = {{
    {Isa::kGeneric, "generic"},
    {Isa::kAvx2, "avx2"},
    {Isa::kAvxVnni, "avx_vnni"},
    {Isa::kAvx512, "avx512"},
    {Isa::kAvx512Vnni, "avx512_vnni"},
    {Isa::kAvx512Bf16, "avx512_bf16"},
    {Isa::kAmx, "amx"},
}};

#if defined(__x86_64__)
// Leaf 7 of CPUID, for what __builtin_cpu_supports of g++ 12 or Clang 14 does not know.
struct Leaf7 {
  explicit Leaf7(unsigned subleaf) { __get_cpuid_count(7, subleaf, &eax, &ebx, &ecx, &edx); }
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

bool HasAvxVnni() { return (Leaf7(1).eax >> 4 & 1) != 0; }

bool HasTiles() {
  constexpr unsigned kTiles = 1u << 24, kInt8 = 1u << 25, kBf16 = 1u << 22, kAll = kTiles | kInt8 | kBf16;
  if ((Leaf7(0).edx & kAll) != kAll) return false;
  // The registers are large, so that Linux gives them to processes that ask (arch_prctl(2), ARCH_REQ_XCOMP_PERM).
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

Isa Detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::kGeneric;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512cd")) {
    return HasAvxVnni() ? Isa::kAvxVnni : Isa::kAvx2;
  }
  if (!__builtin_cpu_supports("avx512vnni")) return Isa::kAvx512;
  if (!__builtin_cpu_supports("avx512bf16")) return Isa::kAvx512Vnni;
  return HasTiles() ? Isa::kAmx : Isa::kAvx512Bf16;
#else
  return Isa::kGeneric;
#endif
}

}  // namespace

Isa BestIsa() {
  static const Isa isa = Detect();
  return isa;
}

bool IsUsable(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvxVnni && BestIsa() > isa) return HasAvxVnni();
#endif
  return isa <= BestIsa();
}

std::string_view IsaName(Isa isa) {
  for (const auto& [value, name] : kNames) {
    if (value == isa) return name;
  }
  return "unknown";
}

std::optional<Isa> ParseIsa(std::string_view name) {
  for (const auto& [value, known] : kNames) {
    if (known == name) return value;
  }
  return std::nullopt;
}

int NumUsableCpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

}  // namespace moed
