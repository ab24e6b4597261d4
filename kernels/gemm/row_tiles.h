// Rows of activations cut into tiles for the micro-kernel. For CPU bodies only (see simd.h).
#ifndef KERNELS_GEMM_ROW_TILES_H_
#define KERNELS_GEMM_ROW_TILES_H_

#include "kernels/common/simd.h"
#include "kernels/gemm/activation_rounding.h"
#include "kernels/gemm/micro_kernel.h"

namespace moed::kernels::MOED_ISA {

// Tiles of at most max_rows rows that `rows` rows are cut into, nearly equal in size.
MOED_ALWAYS_INLINE int64_t NumTiles(int64_t rows, int max_rows) { return (rows + max_rows - 1) / max_rows; }
// The first row of tile `tile` of `num_tiles`; that of tile num_tiles is `rows`. (Tile registers take as long for one
// row as for all of theirs: tiles of more than one register of rows fill two.)
MOED_ALWAYS_INLINE int64_t TileBegin(int64_t rows, int64_t num_tiles, int64_t tile) {
  if (kHasTiles && rows > num_tiles * kTileRegisterRows) {
    const int64_t begin = tile * 2 * kTileRegisterRows;
    return begin < rows ? begin : rows;
  }
  return rows * tile / num_tiles;
}

namespace row_tiles {

typedef float Vec4 __attribute__((vector_size(16)));

// to[i * count + j] = rows[j][i] for i, j < 4.
MOED_ALWAYS_INLINE void Transpose4x4(const float* const* rows, int64_t offset, int count, float* to) {
  const Vec4 a = LoadBits<Vec4>(rows[0] + offset), b = LoadBits<Vec4>(rows[1] + offset);
  const Vec4 c = LoadBits<Vec4>(rows[2] + offset), d = LoadBits<Vec4>(rows[3] + offset);
  const Vec4 ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Vec4 cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  const Vec4 columns[4] = {
      __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5), __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7),
      __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5), __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7)};
  for (int i = 0; i < 4; ++i) std::memcpy(to + i * count, &columns[i], sizeof(Vec4));
}

// tile[block][row][block_bytes] = rows[row][block][block_bytes]
MOED_ALWAYS_INLINE void JoinBlocks(const char* const* rows, int count, int64_t row_bytes, int64_t block_bytes,
                                   char* tile) {
  for (int64_t block = 0; block < row_bytes; block += block_bytes) {
    for (int row = 0; row < count; ++row, tile += block_bytes) {
      std::memcpy(tile, rows[row] + block, static_cast<size_t>(block_bytes));
    }
  }
}

}  // namespace row_tiles

// Writes the `count` rows of `k` floats as a tile [k][count]: the micro-kernel then reads one stream, and rows whose
// distance is a power of two do not push each other out of the cache. A tile of one row is the row itself: no need.
MOED_ALWAYS_INLINE void PackTile(const float* const* rows, int count, int64_t k, float* tile) {
  int row = 0;
  for (; row + 4 <= count; row += 4) {
    int64_t i = 0;
    for (; i + 4 <= k; i += 4) row_tiles::Transpose4x4(rows + row, i, count, tile + i * count + row);
    for (; i < k; ++i) {
      for (int j = 0; j < 4; ++j) tile[i * count + row + j] = rows[row + j][i];
    }
  }
  for (; row < count; ++row) {
    for (int64_t i = 0; i < k; ++i) tile[i * count + row] = rows[row][i];
  }
}

// Makes one tile of `count` tiles of one row of k quantised inputs each (QuantizeRow).
MOED_ALWAYS_INLINE void JoinIntegerTiles(const char* const* row_tiles, int count, int64_t k,
                                         const IntegerLayout& layout, char* tile) {
  const IntegerTileLayout row_layout(1, layout), tile_layout(count, layout);
  const char* rows[kMaxTileRows];
  for (int row = 0; row < count; ++row) rows[row] = row_tiles[row];
  const int64_t num_groups = layout.NumGroups(k);
  for (int64_t group = 0; group < num_groups; ++group) {
    const int64_t inputs = layout.GroupInputs(k, group);
    const int64_t row_bytes = row_layout.DataBytes(inputs), tile_bytes = tile_layout.DataBytes(inputs);
    if (kHasTiles) {
      row_tiles::JoinBlocks(rows, count, row_bytes, tile_layout.block_inputs, tile);
    } else if (row_layout.activation_bytes == 1) {
      // Four inputs are as many bytes as a float.
      const float* fours[kMaxTileRows];
      for (int row = 0; row < count; ++row) fours[row] = reinterpret_cast<const float*>(rows[row]);
      PackTile(fours, count, inputs / 4, reinterpret_cast<float*>(tile));
    } else {
      const size_t step = 4 * static_cast<size_t>(row_layout.activation_bytes);
      for (int row = 0; row < count; ++row) {
        char* to = tile + static_cast<size_t>(row) * step;
        for (int64_t i = 0; i < inputs / 4; ++i, to += static_cast<size_t>(count) * step) {
          std::memcpy(to, rows[row] + static_cast<size_t>(i) * step, step);
        }
      }
    }
    for (int row = 0; row < count; ++row) {  // correction and scale
      std::memcpy(tile + tile_bytes + row * 4, rows[row] + row_bytes, 4);
      std::memcpy(tile + tile_bytes + (count + row) * 4, rows[row] + row_bytes + 4, 4);
      rows[row] += row_layout.GroupBytes(inputs);
    }
    tile += tile_layout.GroupBytes(inputs);
  }
}

// Makes a row of bf16, a tile of one row, with zeros up to PaddedBf16Inputs(k).
MOED_ALWAYS_INLINE void RoundRowToBf16(const float* row, int64_t k, BFloat16* tile) {
  const int64_t padded = PaddedBf16Inputs(k);
  int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes) Store(tile + i, Load(row + i));
  for (; i < padded; i += kLanes) {
    StoreFirst(tile + i, LoadFirst(row + i, i < k ? k - i : 0), padded - i < kLanes ? padded - i : kLanes);
  }
}

// Makes one tile of `count` rows of bf16.
MOED_ALWAYS_INLINE void JoinBf16Tiles(const char* const* row_tiles, int count, int64_t k, char* tile) {
  const int64_t inputs = PaddedBf16Inputs(k);
  if (kHasTiles) return row_tiles::JoinBlocks(row_tiles, count, inputs * 2, kTileRegisterBytes, tile);
  // Two inputs are as many bytes as a float.
  const float* pairs[kMaxTileRows];
  for (int row = 0; row < count; ++row) pairs[row] = reinterpret_cast<const float*>(row_tiles[row]);
  PackTile(pairs, count, inputs / 2, reinterpret_cast<float*>(tile));
}

// What rows become before they are multiplied with weights of the same format, inputs and rounding as `weight`.
struct TileFormat {
  int64_t k;
  RowFormat rows;
  ActivationRounding rounding;
  int32_t offset;  // by which the weights are raised
  IntegerLayout layout;

  MOED_ALWAYS_INLINE explicit TileFormat(const PackedWeight& weight)
      : k(weight.k),
        rows(RowFormatFor(weight)),
        rounding(weight.activations),
        offset(weight.format.type == WeightFormat::Type::kInt8 ? 128 : 8),
        layout(weight.format) {}

  MOED_ALWAYS_INLINE int max_rows() const {
    return rows == RowFormat::kIntegers ? kMaxIntegerTileRows
           : rows == RowFormat::kBf16   ? kMaxBf16TileRows
                                        : kMaxFloatTileRows;
  }
  // Bytes that a tile takes for each of its rows.
  MOED_ALWAYS_INLINE int64_t row_bytes() const {
    return rows == RowFormat::kIntegers ? IntegerTileLayout(1, layout).TileBytes(layout, k)
           : rows == RowFormat::kBf16   ? PaddedBf16Inputs(k) * static_cast<int64_t>(sizeof(BFloat16))
                                        : k * static_cast<int64_t>(sizeof(float));
  }
  // Whether a tile is joined from rows that Convert() made, each a tile of one row.
  MOED_ALWAYS_INLINE bool converts_rows() const { return rows != RowFormat::kFloats; }
  // Whether a tile takes whole rows of floats, rather than some of their columns at a time.
  MOED_ALWAYS_INLINE bool takes_rows() const { return converts_rows() || rounding != ActivationRounding::kNone; }
  // A tile of one row of floats is the row itself.
  MOED_ALWAYS_INLINE bool NeedsPacking(int count) const { return takes_rows() || count > 1; }

  // Makes integers or bf16 of a row: a tile of one row, of row_bytes().
  MOED_ALWAYS_INLINE void Convert(const float* row, void* row_tile) const {
    if (rows == RowFormat::kBf16) return RoundRowToBf16(row, k, static_cast<BFloat16*>(row_tile));
    QuantizeRow(row, k, layout, offset, rounding == ActivationRounding::kInt8Row, row_tile);
  }
  MOED_ALWAYS_INLINE void Join(const char* const* row_tiles, int count, void* tile) const {
    if (rows == RowFormat::kBf16) return JoinBf16Tiles(row_tiles, count, k, static_cast<char*>(tile));
    JoinIntegerTiles(row_tiles, count, k, layout, static_cast<char*>(tile));
  }
  // `scratch`: where rows are converted, memory of count * row_bytes().
  MOED_ALWAYS_INLINE void Pack(const float* const* from, int count, char* scratch, void* tile) const {
    if (converts_rows()) {
      if (count == 1) return Convert(from[0], tile);
      const char* row_tiles[kMaxTileRows];
      for (int row = 0; row < count; ++row) {
        char* const row_tile = scratch + row * row_bytes();
        Convert(from[row], row_tile);
        row_tiles[row] = row_tile;
      }
      Join(row_tiles, count, tile);
    } else if (rounding != ActivationRounding::kNone) {
      const float* rounded[kMaxTileRows];
      RoundActivations(rounding, from, count, k, rounded);
      PackTile(rounded, count, k, static_cast<float*>(tile));
    } else {
      PackTile(from, count, k, static_cast<float*>(tile));
    }
  }
};

}  // namespace moed::kernels::MOED_ISA

#endif  // KERNELS_GEMM_ROW_TILES_H_
