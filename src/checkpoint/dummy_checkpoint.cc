#include "checkpoint/dummy_checkpoint.h"

#include <optional>
#include <utility>

#include "checkpoint/config_reader.h"
#include "checkpoint/message_text.h"

namespace moed {
namespace {

// The initialisation that transformers uses where a configuration names none.
constexpr double kDefaultInitializerRange = 0.02;

absl::StatusOr<DType> WeightType(const ConfigReader& config) {
  const std::string_view key = config.Has("dtype") ? "dtype" : "torch_dtype";
  const std::string name = config.StringOr(key, "bfloat16");
  MOED_RETURN_IF_ERROR(config.status());
  const std::optional<DType> dtype = ParseDType(name);
  if (dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16) return *dtype;
  return InvalidArgument("config.json: {} is {}; dummy weights must be float32, float16 or bfloat16", key,
                         Quoted(name));
}

// Elements of `shape`, each at least 0, whose bytes can be addressed.
absl::StatusOr<uint64_t> NumBytes(std::string_view name, std::initializer_list<int64_t> shape, DType dtype) {
  int64_t bytes = static_cast<int64_t>(DTypeSize(dtype));
  for (const int64_t dim : shape) {
    if (dim < 0 || __builtin_mul_overflow(bytes, dim, &bytes)) {
      return ResourceExhausted("dummy tensor {} of shape [{}] does not fit into memory", Quoted(name),
                               fmt::join(shape, ", "));
    }
  }
  return static_cast<uint64_t>(bytes);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> DummyCheckpoint::Open(const std::string& dir, JsonFile config,
                                                                  JsonFile generation_config, uint64_t seed) {
  const ConfigReader reader(config);
  const double stddev = reader.FloatOr("initializer_range", kDefaultInitializerRange);
  MOED_RETURN_IF_ERROR(reader.status());
  if (stddev < 0 || stddev > 1) {
    return InvalidArgument("{}/config.json: initializer_range is {}; it must be from 0 to 1", dir, stddev);
  }
  MOED_ASSIGN_OR_RETURN(const DType dtype, WeightType(reader));
  return std::unique_ptr<Checkpoint>(
      new DummyCheckpoint(dir, std::move(config), std::move(generation_config), DummyWeights(seed, stddev, dtype)));
}

DummyCheckpoint::DummyCheckpoint(std::string dir, JsonFile config, JsonFile generation_config, DummyWeights weights)
    : Checkpoint(std::move(dir), std::move(config), std::move(generation_config)), weights_(std::move(weights)) {}

absl::StatusOr<TensorView> DummyCheckpoint::Get(std::string_view name, std::initializer_list<int64_t> shape) {
  if (shape.size() > TensorView::kMaxRank) {
    return Unimplemented("dummy tensor {} has {} dimensions; at most {} are supported", Quoted(name), shape.size(),
                         TensorView::kMaxRank);
  }
  MOED_ASSIGN_OR_RETURN(const uint64_t num_bytes, NumBytes(name, shape, weights_.dtype()));
  {
    const std::lock_guard lock(mutex_);
    if (const auto it = held_.find(std::string(name)); it != held_.end()) {
      const TensorView& view = it->second.view;
      if (view.HasShape(shape)) return view;
      return InvalidArgument("dummy tensor {} is held as {}; it cannot also have the shape [{}]", Quoted(name),
                             view.ToString(), fmt::join(shape, ", "));
    }
  }
  // Made outside of the lock, so that several threads can make several tensors. Two that make the same one make the
  // same values, and the later one is dropped.
  Held made;
  MOED_ASSIGN_OR_RETURN(made.buffer, Buffer::Allocate(num_bytes));
  made.view = TensorView(made.buffer.data(), shape, weights_.dtype());
  weights_.Fill(name, made.view);
  const std::lock_guard lock(mutex_);
  return held_.emplace(name, std::move(made)).first->second.view;
}

void DummyCheckpoint::Release(std::string_view name) {
  const std::lock_guard lock(mutex_);
  held_.erase(std::string(name));
}

}  // namespace moed
