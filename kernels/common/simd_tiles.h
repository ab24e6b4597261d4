// The tile registers of AMX, eight of up to 16 rows of 64 bytes (Intel 64 and IA-32 Architectures Software Developer's
// Manual, volume 1, chapter 18). For CPU bodies only (see simd.h).
#ifndef KERNELS_COMMON_SIMD_TILES_H_
#define KERNELS_COMMON_SIMD_TILES_H_

#include "kernels/common/simd.h"

namespace moed::kernels::MOED_ISA {

#if defined(__AMX_TILE__)
constexpr bool kHasTiles = true;
#else
constexpr bool kHasTiles = false;
#endif
constexpr int kTileRegisterRows = 16;
constexpr int64_t kTileRegisterBytes = 64;  // of a row

#if defined(__AMX_TILE__)

// g++ 12 does not know that the instructions read memory.
MOED_ALWAYS_INLINE void TileMemoryBarrier() { asm volatile("" ::: "memory"); }

// The registers as a product of up to 32 rows with 32 outputs takes them, while the object lives: 0 and 1 hold the sums
// of the first 16 rows, 2 and 3 those of the rest, for 16 outputs each; 4 and 5 rows, 6 and 7 weights.
class ProductTiles {
 public:
  // For products with blocks of `block_bytes` bytes of each of the rows, a multiple of 4 up to kTileRegisterBytes.
  MOED_ALWAYS_INLINE ProductTiles(int rows, int64_t block_bytes)
      : block_bytes_(block_bytes), has_rest_(rows > kTileRegisterRows) {
    const auto first = static_cast<uint8_t>(has_rest_ ? kTileRegisterRows : rows);
    const auto rest = static_cast<uint8_t>(has_rest_ ? rows - kTileRegisterRows : 0);
    alignas(64) Configuration configuration = {};
    for (int i = 0; i < 2; ++i) {
      configuration.Set(i, first, kTileRegisterBytes);
      configuration.Set(2 + i, rest, kTileRegisterBytes);
      configuration.Set(4 + i, i == 0 ? first : rest, block_bytes);
      configuration.Set(6 + i, static_cast<uint8_t>(block_bytes / 4), kTileRegisterBytes);
    }
    TileMemoryBarrier();
    _tile_loadconfig(&configuration);
  }
  MOED_ALWAYS_INLINE ~ProductTiles() { _tile_release(); }
  ProductTiles(const ProductTiles&) = delete;
  ProductTiles& operator=(const ProductTiles&) = delete;

  MOED_ALWAYS_INLINE void Zero() const {
    _tile_zero(0);
    _tile_zero(1);
    if (has_rest_) {
      _tile_zero(2);
      _tile_zero(3);
    }
  }

  // Loads rows [rows][block_bytes] and weights [block_bytes / 4][32 outputs][4 bytes].
  MOED_ALWAYS_INLINE void Load(const char* rows, const char* weights) const {
    TileMemoryBarrier();
    _tile_loadd(6, weights, kOutputBytes);
    _tile_loadd(4, rows, block_bytes_);
    _tile_loadd(7, weights + kTileRegisterBytes, kOutputBytes);
    if (has_rest_) _tile_loadd(5, rows + kTileRegisterRows * block_bytes_, block_bytes_);
  }
  // Adds the products of what is loaded: of signed bytes with bytes without sign,
  MOED_ALWAYS_INLINE void AddIntegers() const {
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(1, 4, 7);
    if (has_rest_) {
      _tile_dpbsud(2, 5, 6);
      _tile_dpbsud(3, 5, 7);
    }
  }
  // or of bf16.
  MOED_ALWAYS_INLINE void AddBf16() const {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (has_rest_) {
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }

  // Writes the sums: to [rows][32] of 32 bits.
  MOED_ALWAYS_INLINE void Store(void* to) const {
    char* const bytes = static_cast<char*>(to);
    _tile_stored(0, bytes, kOutputBytes);
    _tile_stored(1, bytes + kTileRegisterBytes, kOutputBytes);
    if (has_rest_) {
      char* const rest = bytes + kTileRegisterRows * kOutputBytes;
      _tile_stored(2, rest, kOutputBytes);
      _tile_stored(3, rest + kTileRegisterBytes, kOutputBytes);
    }
  }

 private:
  // Palette 1, as the processor reads it.
  struct Configuration {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    MOED_ALWAYS_INLINE void Set(int tile, uint8_t num_rows, int64_t bytes) {
      rows[tile] = num_rows;
      row_bytes[tile] = static_cast<uint16_t>(num_rows == 0 ? 0 : bytes);
    }
  };
  static constexpr int64_t kOutputBytes = 2 * kTileRegisterBytes;  // of a row of sums, or four bytes of each output

  int64_t block_bytes_;
  bool has_rest_;
};

#endif  // __AMX_TILE__

}  // namespace moed::kernels::MOED_ISA

#endif  // KERNELS_COMMON_SIMD_TILES_H_
