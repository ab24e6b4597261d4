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

  // Room for `count` elements; *values is where they are to be written, the result where they will be.
  template <typename T>
  T* AddPlain(int64_t count, T** values) {
    const size_t bytes = Align(count * sizeof(T));
    MOED_CHECK(bytes <= left_, "a step's inputs are larger than planned: {} > {}", bytes, left_);
    *values = reinterpret_cast<T*>(host_);
    T* const target = reinterpret_cast<T*>(target_);
    host_ += bytes;
    target_ += bytes;
    left_ -= bytes;
    return target;
  }

  template <typename T>
  TensorView Add(int64_t count, T** values) {
    return {AddPlain(count, values), {count}, DTypeOf<T>::value, device_};
  }

  TensorView Copy(std::span<const int32_t> source) { return Copy(source, std::ssize(source)); }
  // With room for `count` elements.
  TensorView Copy(std::span<const int32_t> source, int64_t count) {
    int32_t* values = nullptr;
    const TensorView view = Add(count, &values);
    std::copy(source.begin(), source.end(), values);
    return view;
  }

 private:
  char* host_;
  char* target_;
  size_t left_;
  Device device_;
};

void AddTokens(const StepPlan& plan, std::span<const SamplerSlot> slots, ArrayWriter* writer, DecoderBatch* batch) {
  int32_t *tokens = nullptr, *context_lens = nullptr, *rows = nullptr;
  batch->token_ids = writer->Add(plan.num_tokens(), &tokens);
  batch->context_lens = writer->Add(plan.num_sequences(), &context_lens);
  for (int32_t s = 0; s < plan.num_sequences(); ++s) {
    for (int32_t t = plan.query_starts[s]; t < plan.query_starts[s + 1]; ++t) {
      const int32_t id = plan.token_ids[t];
      tokens[t] = id == kPendingToken ? std::max(0, slots[plan.slots[s]].last_token()) : id;
    }
    context_lens[s] = plan.positions[plan.query_starts[s + 1] - 1] + 1;
  }
  batch->positions = writer->Copy(plan.positions);
  batch->query_starts = writer->Copy(plan.query_starts);
  batch->logits_tokens = writer->Add(std::ssize(plan.logits_rows), &rows);
  for (const LogitsRow& row : plan.logits_rows) *rows++ = row.token;
}

void AddBlockTables(const StepPlan& plan, const BlockTables& tables, int32_t block_size, int64_t room,
                    ArrayWriter* writer, DecoderBatch* batch) {
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
  group.block_ids = writer->Copy(tables.ids, room);
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

void AddSampling(const StepPlan& plan, std::span<const SamplerSlot> slots, const StepLayout& layout,
                 ArrayWriter* writer, SamplingBatch* batch) {
  kernels::SamplingRow* rows = nullptr;
  kernels::LogitAdjustment* adjustments = nullptr;
  batch->rows = writer->AddPlain(layout.room.rows, &rows);
  batch->adjustments = writer->AddPlain(layout.room.adjustments, &adjustments);
  batch->num_adjustments = layout.room.adjustments;
  batch->max_top = layout.max_top;
  int32_t first = 0;
  for (const LogitsRow& row : plan.logits_rows) {
    const SamplerSlot& slot = slots[plan.slots[row.sequence]];
    *rows = slot.Row();
    rows->first_adjustment = first;
    std::copy(slot.adjustments().begin(), slot.adjustments().end(), adjustments + first);
    first += rows->num_adjustments;
    ++rows;
  }
}

}  // namespace

size_t StepSize::NumBytes() const {
  constexpr int64_t kArrays = 10, kArraysOfGroup = 3;
  constexpr int64_t kInt = sizeof(int32_t);
  const int64_t of_rows = rows * (kInt + static_cast<int64_t>(sizeof(kernels::SamplingRow))) +
                          adjustments * static_cast<int64_t>(sizeof(kernels::LogitAdjustment));
  const int64_t of_group = static_cast<int64_t>(sizeof(int64_t)) * tokens + kInt * (sequences + 1 + blocks) +
                           kArraysOfGroup * static_cast<int64_t>(kAlignment);
  return static_cast<size_t>(kInt * (4 * tokens + 2 * sequences + 1 + 2) + of_rows + groups * of_group +
                             kArrays * static_cast<int64_t>(kAlignment));
}

StepSize SizeOf(const StepPlan& plan, std::span<const SamplerSlot> slots) {
  StepSize size = {.tokens = plan.num_tokens(),
                   .sequences = plan.num_sequences(),
                   .rows = std::ssize(plan.logits_rows),
                   .groups = std::ssize(plan.block_tables)};
  for (const BlockTables& tables : plan.block_tables) size.blocks = std::max(size.blocks, std::ssize(tables.ids));
  for (const LogitsRow& row : plan.logits_rows) {
    size.adjustments += std::ssize(slots[plan.slots[row.sequence]].adjustments());
  }
  return size;
}

StepLayout StepLayout::Fit(const StepPlan& plan, std::span<const SamplerSlot> slots, int32_t vocab_size,
                           bool samples_on_device) {
  StepLayout layout = {.room = SizeOf(plan, slots), .samples_on_device = samples_on_device};
  if (!samples_on_device) layout.room.adjustments = 0;
  for (const int32_t position : plan.positions)
    layout.max_context = std::max<int64_t>(layout.max_context, position + 1);
  for (const LogitsRow& row : plan.logits_rows) {
    layout.max_top = std::max(layout.max_top, slots[plan.slots[row.sequence]].params().logprobs);
  }
  layout.max_top = std::min(layout.max_top, vocab_size);
  return layout;
}

absl::StatusOr<StepBatch> StepInputs::Make(const ExecContext& ctx, const StepPlan& plan,
                                           std::span<const SamplerSlot> slots, const StepLayout& layout,
                                           int32_t block_size) {
  const size_t bytes = layout.room.NumBytes();
  const bool on_gpu = ctx.device.type == DeviceType::kCuda;
  if (host_.size() < bytes) {
    const size_t room = std::max(bytes, 2 * host_.size());
    MOED_ASSIGN_OR_RETURN(host_, on_gpu ? Buffer::AllocatePinned(room) : Buffer::Allocate(room));
  }
  void* const target = on_gpu ? ctx.workspace->Allocate(bytes) : host_.data();

  StepBatch batch;
  DecoderBatch& decoder = batch.decoder;
  decoder.max_context = layout.max_context;
  ArrayWriter writer(host_.data(), target, bytes, ctx.device);
  AddTokens(plan, slots, &writer, &decoder);
  AddOneExpert(plan.num_tokens(), &writer, &decoder);
  for (const BlockTables& tables : plan.block_tables) {
    AddBlockTables(plan, tables, block_size, layout.room.blocks, &writer, &decoder);
  }
  if (layout.samples_on_device) AddSampling(plan, slots, layout, &writer, &batch.sampling);
  if (on_gpu) ctx.stream->Copy(target, host_.data(), bytes);
  return batch;
}

}  // namespace moed
