#include "engine/calibration.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "engine/score.h"
#include "kernels/gemm/gemm.h"

namespace moed {
namespace {

// What the feed-forward makes of the products with gate and up.
float Activate(const kernels::MoeFfnArgs& args, float gate, float up) {
  switch (args.activation) {
    case kernels::Activation::kSilu:
      return gate / (1 + std::exp(-gate)) * up;
    case kernels::Activation::kGeluTanh:
      return 0.5f * gate * (1 + std::tanh(0.7978845608f * (gate + 0.044715f * gate * gate * gate))) * up;
    case kernels::Activation::kClampedSwiglu: {
      const float limit = args.swiglu_limit, g = std::min(gate, limit), u = std::clamp(up, -limit, limit);
      return g / (1 + std::exp(-args.swiglu_alpha * g)) * (u + 1);
    }
  }
  return 0;
}

// The log-probabilities that logits give.
void Normalize(std::span<float> logits) {
  const float top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  const auto log_sum = static_cast<float>(top + std::log(sum));
  for (float& logit : logits) logit -= log_sum;
}

// Of log-probabilities.
double Divergence(std::span<const float> log_p, std::span<const float> log_q) {
  double sum = 0;
  for (size_t i = 0; i < log_p.size(); ++i) sum += std::exp(log_p[i]) * (log_p[i] - log_q[i]);
  return sum;
}

}  // namespace

std::vector<std::vector<int32_t>> TokenWindows(const std::vector<int32_t>& ids, size_t context) {
  std::vector<std::vector<int32_t>> windows;
  for (size_t begin = 0; begin + 1 < ids.size(); begin += context - 1) {
    windows.emplace_back(ids.begin() + static_cast<std::ptrdiff_t>(begin),
                         ids.begin() + static_cast<std::ptrdiff_t>(std::min(ids.size(), begin + context)));
  }
  return windows;
}

Calibration::Calibration(MoeEngine* engine, std::vector<std::vector<int32_t>> windows, CalibrationOptions options)
    : engine_(engine), windows_(std::move(windows)), options_(std::move(options)) {}

Calibration::~Calibration() = default;

absl::StatusOr<std::unique_ptr<Calibration>> Calibration::Create(MoeEngine* engine,
                                                                 std::vector<std::vector<int32_t>> windows,
                                                                 CalibrationOptions options) {
  std::unique_ptr<Calibration> calibration(new Calibration(engine, std::move(windows), std::move(options)));
  int64_t rows = 0;
  for (const auto& window : calibration->windows_) rows += std::ssize(window);
  if (rows == 0) return InvalidArgument("the text to calibrate with has no tokens");
  const int64_t row_bytes = int64_t{engine->info().vocab_size} * static_cast<int64_t>(sizeof(float));
  const int64_t max_rows =
      std::max<int64_t>(1, static_cast<int64_t>(calibration->options_.max_logit_bytes) / row_bytes);
  calibration->stride_ = (rows + max_rows - 1) / max_rows;
  MOED_RETURN_IF_ERROR(calibration->Run(*engine, [&](int64_t, std::span<const float> logits) {
    std::vector<float>& all = calibration->log_probabilities_;
    all.insert(all.end(), logits.begin(), logits.end());
    Normalize(std::span(all).last(logits.size()));
  }));
  return calibration;
}

// The windows one after the other, so that rows come in one order.
absl::Status Calibration::Run(MoeEngine& engine,
                              const std::function<void(int64_t row, std::span<const float> logits)>& sink) {
  int64_t row = 0;
  for (const std::vector<int32_t>& window : windows_) {
    if (options_.cancelled && options_.cancelled()) return absl::CancelledError("stopped");
    MOED_RETURN_IF_ERROR(
        ScorePrompts(engine, std::span(&window, 1), 0, [&](size_t, size_t, std::span<const float> logits) {
          if (row % stride_ == 0) sink(row / stride_, logits);
          ++row;
        }));
  }
  return absl::OkStatus();
}

absl::StatusOr<double> Calibration::DivergenceOf(MoeEngine& other) {
  const int64_t vocab = engine_->info().vocab_size, rows = std::ssize(log_probabilities_) / vocab;
  double sum = 0;
  std::vector<float> row_of_other(vocab);
  MOED_RETURN_IF_ERROR(Run(other, [&](int64_t row, std::span<const float> logits) {
    std::copy(logits.begin(), logits.end(), row_of_other.begin());
    Normalize(row_of_other);
    sum += Divergence(std::span(log_probabilities_).subspan(row * vocab, vocab), row_of_other);
  }));
  return sum / static_cast<double>(rows);
}

// ---- Moments ----

uint64_t Calibration::LayerBytes(int32_t layer) const {
  uint64_t bytes = 0;
  int64_t previous = -1;  // the matrices of an input follow each other, or are few
  for (const ModelMatrix& matrix : ListMatrices(engine_->model_config())) {
    if (matrix.layer != layer || matrix.input == MatrixInput::kNone) continue;
    const int64_t key = static_cast<int64_t>(matrix.input) * 65536 + matrix.expert;
    if (key != previous) bytes += std::max<int64_t>(1, matrix.count) * InputMoments::Bytes(matrix.columns);
    previous = key;
  }
  return bytes;
}

absl::Status Calibration::ObserveLayers(int32_t first) {
  const int32_t end = engine_->model_config().num_layers() + 1;  // the head's behind the last
  uint64_t bytes = 0;
  moments_.clear();
  first_layer_ = last_layer_ = first;
  do {
    bytes += LayerBytes(last_layer_++);
  } while (last_layer_ < end && bytes + LayerBytes(last_layer_) <= options_.max_moment_bytes);
  moments_.resize(last_layer_ - first_layer_);
  engine_->SetObserver(this);
  absl::Status status = Run(*engine_, [](int64_t, std::span<const float>) {});
  engine_->SetObserver(nullptr);
  for (auto& layer : moments_) {
    for (auto& [key, moments] : layer) moments.Finish(engine_->exec_context().threads);
  }
  if (!status.ok()) first_layer_ = last_layer_ = 0;
  return status;
}

absl::StatusOr<kernels::InputStatistics> Calibration::Of(const ModelMatrix& matrix, int64_t index) {
  if (matrix.input == MatrixInput::kNone) return kernels::InputStatistics{};
  if (!IsObserved(matrix.layer)) MOED_RETURN_IF_ERROR(ObserveLayers(matrix.layer));
  const auto& layer = moments_[matrix.layer - first_layer_];
  const auto it = layer.find({matrix.part, matrix.input, matrix.expert + static_cast<int32_t>(index)});
  return it == layer.end() ? kernels::InputStatistics{} : it->second.statistics();
}

InputMoments& Calibration::Moments(int32_t layer, Key key, int64_t size) {
  return moments_[layer - first_layer_].try_emplace(key, size).first->second;
}

void Calibration::OnProduct(int32_t layer, MatrixInput input, const TensorView& x) {
  if (!IsObserved(layer)) return;
  const WeightPart part = input == MatrixInput::kHead ? WeightPart::kHead : WeightPart::kAttention;
  Moments(layer, {part, input, 0}, x.dim(1)).Add(x, nullptr, engine_->exec_context().threads);
}

void Calibration::OnFeedForward(int32_t layer, WeightPart part, const kernels::MoeFfnArgs& args) {
  if (!IsObserved(layer)) return;
  for (int32_t expert = 0; expert < args.num_experts; ++expert) OnExpert(layer, part, args, expert);
}

// The rows of an expert count as their weights do in the sum of the experts: an error is multiplied by that. What meets
// the down-projection is computed here once more, for the op does not let it out.
void Calibration::OnExpert(int32_t layer, WeightPart part, const kernels::MoeFfnArgs& args, int32_t expert) {
  const auto* const offsets = args.expert_offsets.As<int32_t>();
  const int64_t count = offsets[expert + 1] - offsets[expert];
  if (count == 0) return;
  const ExecContext& ctx = engine_->exec_context();
  const Workspace::Scope scope(ctx.workspace);
  const int64_t hidden = args.x.dim(1), inner = args.gate[expert].n;
  const TensorView x = ctx.workspace->Tensor({count, hidden});
  std::vector<float> importance(count);
  for (int64_t i = 0; i < count; ++i) {
    const int32_t pair = args.sorted_pairs.As<int32_t>()[offsets[expert] + i];
    const float* const from = args.x.As<float>() + pair / args.top_k * args.x.stride(0);
    std::copy_n(from, hidden, x.As<float>() + i * hidden);
    const float weight = args.weights.As<float>()[pair / args.top_k * args.weights.stride(0) + pair % args.top_k];
    importance[i] = weight * weight;
  }
  Moments(layer, {part, MatrixInput::kFeedForward, expert}, hidden).Add(x, importance.data(), ctx.threads);

  const TensorView gate = ctx.workspace->Tensor({count, inner}), up = ctx.workspace->Tensor({count, inner});
  const auto bias = [&](const TensorView& all) {
    return all.empty() ? TensorView() : TensorView(all.As<float>() + expert * inner, {inner}, DType::kF32);
  };
  kernels::Gemm(ctx, {.x = x, .weight = args.gate[expert], .bias = bias(args.gate_bias), .out = gate});
  kernels::Gemm(ctx, {.x = x, .weight = args.up[expert], .bias = bias(args.up_bias), .out = up});
  for (int64_t i = 0; i < count * inner; ++i) {
    gate.As<float>()[i] = Activate(args, gate.As<float>()[i], up.As<float>()[i]);
  }
  Moments(layer, {part, MatrixInput::kActivated, expert}, inner).Add(gate, importance.data(), ctx.threads);
}

}  // namespace moed
