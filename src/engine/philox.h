// Random numbers by counter.
#ifndef MOED_ENGINE_PHILOX_H_
#define MOED_ENGINE_PHILOX_H_

#include <array>
#include <cstdint>

namespace moed {

// Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): a pure function of key and
// counter, so the n-th draw of a sequence needs no state and does not depend on who else draws.
inline std::array<uint32_t, 4> Philox4x32(uint64_t key, uint64_t counter) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  std::array<uint32_t, 4> x = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0};
  uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * x[0], product1 = kMultiplier1 * x[2];
    x = {static_cast<uint32_t>(product1 >> 32) ^ x[1] ^ key0, static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ x[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return x;
}

// Uniform in [0, 1) with 53 bits.
inline double PhiloxUniform(uint64_t key, uint64_t counter) {
  const auto bits = Philox4x32(key, counter);
  return static_cast<double>((uint64_t{bits[1]} << 32 | bits[0]) >> 11) * 0x1p-53;
}

}  // namespace moed

#endif  // MOED_ENGINE_PHILOX_H_
