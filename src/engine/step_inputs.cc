#include "engine/step_inputs.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/logging.h"

namespace moed {
namespace {

constexpr size_t kAlignment = 64;

size_t Align(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Cuts up a piece of host memory into arrays, and gives views of where they will lie.
class ArrayWriter {
 public:
  ArrayWriter(void* host, void* target, size_t bytes, Device device)
      : host_(static_cast<char*>(host)), target_(static_cast<char*>(target)), left_(bytes), device_(device) {}

  // Room for `count` elements; *values is where they are to be written.
  template <typename T>
  TensorView Add(int64_t count, T** values) {
    const size_t bytes = Align(count * sizeof(T));
    MOED_CHECK(bytes <= left_, "a step's inputs are larger than planned: {} > {}", bytes, left_);
    *values = reinterpret_cast<T*>(host_);
    const TensorView view(target_, {count}, DTypeOf<T>::value, device_);
    host_ += bytes;
    target_ += bytes;
    left_ -= bytes;
    return view;
  }

  TensorView Copy(std::span<const int32_t> source) {
    int32_t* values = nullptr;
    const TensorView view = Add(std::ssize(source), &values);
    std::copy(source.begin(), source.end(), values);
    return view;
  }

 private:
  char* host_;
  char* target_;
  size_t left_;
  Device device_;
};

void AddTokens(const StepPlan& plan, std::span<const int32_t> last_tokens, ArrayWriter* writer, DecoderBatch* batch) {
  int32_t *tokens = nullptr, *context_lens = nullptr, *rows = nullptr;
  batch->token_ids = writer->Add(plan.num_tokens(), &tokens);
  batch->context_lens = writer->Add(plan.num_sequences(), &context_lens);
  batch->max_context = 0;
  for (int32_t s = 0; s < plan.num_sequences(); ++s) {
    for (int32_t t = plan.query_starts[s]; t < plan.query_starts[s + 1]; ++t) {
      const int32_t id = plan.token_ids[t];
      tokens[t] = id == kPendingToken ? std::max(0, last_tokens[plan.slots[s]]) : id;
    }
    context_lens[s] = plan.positions[plan.query_starts[s + 1] - 1] + 1;
    batch->max_context = std::max<int64_t>(batch->max_context, context_lens[s]);
  }
  batch->positions = writer->Copy(plan.positions);
  batch->query_starts = writer->Copy(plan.query_starts);
  batch->logits_tokens = writer->Add(std::ssize(plan.logits_rows), &rows);
  for (const LogitsRow& row : plan.logits_rows) *rows++ = row.token;
}

void AddBlockTables(const StepPlan& plan, const BlockTables& tables, int32_t block_size, ArrayWriter* writer,
                    DecoderBatch* batch) {
  DecoderBatch::Group& group = batch->groups.emplace_back();
  int64_t* slots = nullptr;
  group.slots = writer->Add(plan.num_tokens(), &slots);
  for (int32_t s = 0; s < plan.num_sequences(); ++s) {
    for (int32_t t = plan.query_starts[s]; t < plan.query_starts[s + 1]; ++t) {
      const int32_t position = plan.positions[t];
      const int64_t block = tables.ids[tables.starts[s] + position / block_size];
      slots[t] = block * block_size + position % block_size;
    }
  }
  group.block_starts = writer->Copy(tables.starts);
  group.block_ids = writer->Copy(tables.ids);
}

void AddOneExpert(int64_t tokens, ArrayWriter* writer, DecoderBatch* batch) {
  float* weights = nullptr;
  int32_t *pairs = nullptr, *offsets = nullptr;
  batch->one_expert.weights = writer->Add(tokens, &weights);
  std::fill_n(weights, tokens, 1.0f);
  batch->one_expert.sorted_pairs = writer->Add(tokens, &pairs);
  std::iota(pairs, pairs + tokens, 0);
  batch->one_expert.offsets = writer->Add(2, &offsets);
  offsets[0] = 0;
  offsets[1] = static_cast<int32_t>(tokens);
}

}  // namespace

size_t StepInputs::MaxBytes(int64_t tokens, int64_t sequences, int64_t rows, int64_t groups, int64_t blocks) {
  constexpr int64_t kArrays = 8, kArraysOfGroup = 3;
  const int64_t fixed = sizeof(int32_t) * (4 * tokens + 2 * sequences + 1 + rows + 2);
  const int64_t of_groups = groups * (sizeof(int64_t) * tokens + sizeof(int32_t) * (sequences + 1));
  return static_cast<size_t>(fixed + of_groups + static_cast<int64_t>(sizeof(int32_t)) * blocks +
                             (kArrays + kArraysOfGroup * groups) * static_cast<int64_t>(kAlignment));
}

absl::StatusOr<DecoderBatch> StepInputs::Make(const ExecContext& ctx, const StepPlan& plan,
                                              std::span<const int32_t> last_tokens, int32_t block_size) {
  int64_t blocks = 0;
  for (const BlockTables& tables : plan.block_tables) blocks += std::ssize(tables.ids);
  const size_t bytes = MaxBytes(plan.num_tokens(), plan.num_sequences(), std::ssize(plan.logits_rows),
                                std::ssize(plan.block_tables), blocks);
  const bool on_gpu = ctx.device.type == DeviceType::kCuda;
  if (host_.size() < bytes) {
    const size_t room = std::max(bytes, 2 * host_.size());
    MOED_ASSIGN_OR_RETURN(host_, on_gpu ? Buffer::AllocatePinned(room) : Buffer::Allocate(room));
  }
  void* const target = on_gpu ? ctx.workspace->Allocate(bytes) : host_.data();

  DecoderBatch batch;
  ArrayWriter writer(host_.data(), target, bytes, ctx.device);
  AddTokens(plan, last_tokens, &writer, &batch);
  AddOneExpert(plan.num_tokens(), &writer, &batch);
  for (const BlockTables& tables : plan.block_tables) AddBlockTables(plan, tables, block_size, &writer, &batch);
  if (on_gpu) ctx.stream->Copy(target, host_.data(), bytes);
  return batch;
}

}  // namespace moed
