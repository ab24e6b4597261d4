#include <cstring>

#include "kernels/common/simd.h"
#include "kernels/embedding/embedding.h"

namespace moed::kernels::MOED_ISA {
namespace {

// Elements worth a piece of their own to a thread.
constexpr int64_t kPieceElements = 16384;

template <typename T>
MOED_ALWAYS_INLINE void ScaleRow(const T* row, float scale, int64_t size, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) Store(out + i, Load(row + i) * scale);
  if (i < size) StoreFirst(out + i, LoadFirst(row + i, size - i) * scale, size - i);
}

// read(id, out) for each token, in all threads.
template <typename Read>
void ForTokens(const ExecContext& ctx, const EmbeddingArgs& args, const Read& read) {
  const int32_t* const ids = args.ids.As<int32_t>();
  ctx.threads->ParallelFor(args.ids.dim(0), kPieceElements / (args.out.dim(1) + 1) + 1,
                           [&](int64_t begin, int64_t end, int /*worker*/) {
                             for (int64_t token = begin; token < end; ++token) {
                               read(ids[token], args.out.As<float>() + token * args.out.stride(0));
                             }
                           });
}

template <typename T>
void Gather(const ExecContext& ctx, const EmbeddingArgs& args) {
  ForTokens(ctx, args, [&](int32_t id, float* out) {
    ScaleRow(args.table.As<T>() + id * args.table.stride(0), args.scale, args.table.dim(1), out);
  });
}

// Bytes from one word of an output to its next, in a panel.
constexpr int64_t kWordStep = PackedWeight::kPanel * 4;

// The words of floats of one output, T of them adjacent.
template <typename T>
void UnpackFloats(const char* words, float scale, int64_t size, float* out) {
  constexpr int64_t kPerWord = 4 / sizeof(T);
  for (int64_t i = 0; i < size; i += kPerWord, words += kWordStep) {
    T values[kPerWord];
    std::memcpy(values, words, sizeof(values));
    for (int64_t j = 0; j < kPerWord && i + j < size; ++j) {
      if constexpr (kPerWord == 1) {
        out[i] = values[0] * scale;
      } else {
        out[i + j] = ToFloat(values[j]) * scale;
      }
    }
  }
}

// The integers of one output's group.
void UnpackIntegers(const char* words, bool is_int4, float group_scale, float scale, int64_t size, float* out) {
  const auto value = [&](int integer) { return static_cast<float>(integer) * group_scale * scale; };
  for (int64_t i = 0; i < size; i += is_int4 ? 8 : 4, words += kWordStep) {
    uint8_t bytes[4];
    std::memcpy(bytes, words, sizeof(bytes));
    for (int64_t j = 0; j < 4 && i + j < size; ++j) {
      out[i + j] = is_int4 ? value((bytes[j] & 15) - 8) : value(bytes[j] - 128);
      if (is_int4 && i + 4 + j < size) out[i + 4 + j] = value((bytes[j] >> 4) - 8);
    }
  }
}

void UnpackRow(const PackedWeight& weight, int32_t id, float scale, float* out) {
  const int64_t panel = id / PackedWeight::kPanel, lane = id % PackedWeight::kPanel;
  const char* const data = static_cast<const char*>(weight.data) + lane * 4;
  if (weight.format.type == WeightFormat::Type::kF32) {
    return UnpackFloats<float>(data + panel * weight.k * kWordStep, scale, weight.k, out);
  }
  if (weight.format.type == WeightFormat::Type::kBF16) {
    return UnpackFloats<BFloat16>(data + panel * ((weight.k + 1) / 2) * kWordStep, scale, weight.k, out);
  }
  const IntegerLayout layout(weight.format);
  for (int64_t group = 0; group < layout.NumGroups(weight.k); ++group) {
    const int64_t first = group * layout.group_size, left = weight.k - first;
    const char* const words = data + panel * layout.PanelBytes(weight.k) + layout.GroupOffset(group);
    Half stored;
    std::memcpy(&stored, words + layout.DataBytes(layout.GroupInputs(weight.k, group)) - lane * 2, sizeof(stored));
    UnpackIntegers(words, layout.is_int4(), ToFloat(stored) * PackedWeight::kScaleUnit, scale,
                   left < layout.group_size ? left : layout.group_size, out + first);
  }
}

}  // namespace

void Embedding(const ExecContext& ctx, const EmbeddingArgs& args) {
  if (args.packed.data != nullptr) {
    return ForTokens(ctx, args, [&](int32_t id, float* out) { UnpackRow(args.packed, id, args.scale, out); });
  }
  switch (args.table.dtype) {
    case DType::kBF16:
      return Gather<BFloat16>(ctx, args);
    case DType::kF16:
      return Gather<Half>(ctx, args);
    default:
      return Gather<float>(ctx, args);
  }
}

}  // namespace moed::kernels::MOED_ISA
