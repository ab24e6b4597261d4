// A model run on a text, to learn what its matrices meet there and how far another one's predictions are from its own.
#ifndef MOED_ENGINE_CALIBRATION_H_
#define MOED_ENGINE_CALIBRATION_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string_view>
#include <tuple>
#include <vector>

#include "base/status.h"
#include "engine/moe_engine.h"
#include "model/input_moments.h"
#include "model/input_observer.h"
#include "model/quantize_model.h"

namespace moed {

// A text's tokens in windows of `context`, of which each begins with the last token of the one before: so every token
// but the first is predicted once.
std::vector<std::vector<int32_t>> TokenWindows(const std::vector<int32_t>& ids, size_t context);

struct CalibrationOptions {
  // For second moments; as many layers as fit are looked at in one run over the text.
  uint64_t max_moment_bytes = uint64_t{2} << 30;
  // For the logits that others are compared with: of every token, or of every second, third, …
  uint64_t max_logit_bytes = uint64_t{1} << 30;
  // Asked after each step of a run: true ends it with CANCELLED.
  std::function<bool()> cancelled;
};

// Of an unquantised model on the CPU, whose engine nobody else uses meanwhile. Used by one thread; results do not
// depend on the number of threads.
class Calibration final : public InputStatisticsSource, private InputObserver {
 public:
  // Borrows the engine. INVALID_ARGUMENT for windows that it cannot run; CANCELLED.
  static absl::StatusOr<std::unique_ptr<Calibration>> Create(MoeEngine* engine,
                                                             std::vector<std::vector<int32_t>> windows,
                                                             CalibrationOptions options = {});
  ~Calibration() override;

  // The views live until the next call. Asked layer by layer, each layer's moments are found once. Without squares for
  // an expert that the text never chose.
  absl::StatusOr<kernels::InputStatistics> Of(const ModelMatrix& matrix, int64_t index) override;

  // The mean over the text's tokens of the Kullback-Leibler divergence of the other engine's next token from this
  // one's, in nats.
  absl::StatusOr<double> DivergenceOf(MoeEngine& other);

  const MoeEngine& engine() const { return *engine_; }

 private:
  using Key = std::tuple<WeightPart, MatrixInput, int32_t>;  // and expert

  Calibration(MoeEngine* engine, std::vector<std::vector<int32_t>> windows, CalibrationOptions options);

  absl::Status Run(MoeEngine& engine, const std::function<void(int64_t row, std::span<const float> logits)>& sink);
  absl::Status ObserveLayers(int32_t first);
  uint64_t LayerBytes(int32_t layer) const;
  bool IsObserved(int32_t layer) const { return layer >= first_layer_ && layer < last_layer_; }
  InputMoments& Moments(int32_t layer, Key key, int64_t size);

  void OnProduct(int32_t layer, MatrixInput input, const TensorView& x) override;
  void OnFeedForward(int32_t layer, WeightPart part, const kernels::MoeFfnArgs& args) override;
  void OnExpert(int32_t layer, WeightPart part, const kernels::MoeFfnArgs& args, int32_t expert);

  MoeEngine* engine_;
  std::vector<std::vector<int32_t>> windows_;
  CalibrationOptions options_;
  int64_t stride_ = 1;                                // of the rows whose logits are compared
  std::vector<float> log_probabilities_;              // [compared rows, vocabulary]
  int32_t first_layer_ = 0, last_layer_ = 0;          // whose moments are there
  std::vector<std::map<Key, InputMoments>> moments_;  // [layers from first_layer_ on]
};

}  // namespace moed

#endif  // MOED_ENGINE_CALIBRATION_H_
