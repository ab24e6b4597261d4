#include "model/stored_format.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/gemm/integer_weight.h"
#include "model/model_matrices.h"

namespace moed {

using kernels::WeightFormat;

namespace {

constexpr int64_t kRowsAtOnce = kernels::PackedWeight::kPanel;

WeightFormat::Type TypeOf(int bits) { return bits == 4 ? WeightFormat::Type::kInt4 : WeightFormat::Type::kInt8; }

// The format that holds what either holds.
std::optional<WeightFormat> Both(const std::optional<WeightFormat>& a, const std::optional<WeightFormat>& b) {
  if (!a.has_value() || !b.has_value()) return std::nullopt;
  const int32_t group = std::gcd(a->group_size, b->group_size);
  if (group % 8 != 0) return std::nullopt;
  return WeightFormat(a->type == b->type ? a->type : WeightFormat::Type::kInt8, group);
}

}  // namespace

std::optional<WeightFormat> StoredFormat(const IntegerScheme& scheme, int64_t columns) {
  if (!scheme.symmetric || !scheme.group_of_input.empty()) return std::nullopt;
  // One scale for all inputs of an output may be written as often as we like.
  if (scheme.group_size >= columns) return WeightFormat(TypeOf(scheme.bits), WeightFormat::kDefaultGroup);
  for (int32_t group = static_cast<int32_t>(std::min<int64_t>(1024, scheme.group_size)) / 8 * 8; group > 0;
       group -= 8) {
    if (scheme.group_size % group == 0) return WeightFormat(TypeOf(scheme.bits), group);
  }
  return std::nullopt;
}

bool Holds(WeightFormat format, const IntegerScheme& scheme, int64_t columns) {
  const bool wide_enough = format.type == WeightFormat::Type::kInt8 || (format.is_integer() && scheme.bits == 4);
  const bool groups_fit =
      format.is_integer() && (scheme.group_size >= columns || scheme.group_size % format.group_size == 0);
  return wide_enough && groups_fit && scheme.symmetric && scheme.group_of_input.empty();
}

void AddStoredFormats(const ModelConfig& config, Checkpoint& checkpoint, WeightPolicy* policy) {
  std::map<std::pair<int32_t, WeightPart>, std::optional<WeightFormat>> formats;
  for (const ModelMatrix& matrix : ListMatrices(config)) {
    std::optional<WeightFormat> format;
    if (!matrix.transposed) {
      const auto scheme = checkpoint.Describe(matrix.name, matrix.count, matrix.rows, matrix.columns);
      if (scheme.ok() && scheme->has_value()) format = StoredFormat(**scheme, matrix.columns);
    }
    const auto [it, is_first] = formats.emplace(std::pair(matrix.layer, matrix.part), format);
    if (!is_first) it->second = Both(it->second, format);
  }
  for (const auto& [place, format] : formats) {
    if (!format.has_value()) continue;
    WeightPolicy::Rule rule{.parts = {place.second}, .format = *format};
    if (place.first < config.num_layers()) rule.first_layer = rule.last_layer = place.first;
    policy->rules.push_back(std::move(rule));
  }
}

absl::Status PackStoredRows(const WeightMatrix& source, int64_t begin, int64_t end, int64_t first_row,
                            WeightFormat format, void* destination) {
  const IntegerScheme& scheme = *source.integers();
  const int64_t columns = source.columns(), groups = (columns + scheme.group_size - 1) / scheme.group_size;
  std::vector<int8_t> codes(kRowsAtOnce * columns);
  std::vector<float> scales(kRowsAtOnce * groups);
  std::vector<int16_t> zeros(kRowsAtOnce * groups);
  for (int64_t row = begin; row < end; row += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, end - row);
    source.quantized().ReadIntegers(row, row + count, codes.data(), scales.data(), zeros.data());
    for (int64_t i = 0; i < count * groups; ++i) {
      if (zeros[i] == 0) continue;
      return InvalidArgument("output {}, group {} has the zero point {}; the checkpoint says that all are 0",
                             row + i / groups, i % groups, zeros[i]);
    }
    for (int64_t i = 0; i < count; ++i) {
      MOED_RETURN_IF_ERROR(kernels::PackIntegerCodes(codes.data() + i * columns, scales.data() + i * groups,
                                                     scheme.group_size, first_row + row + i, columns, format,
                                                     destination));
    }
  }
  return absl::OkStatus();
}

}  // namespace moed
