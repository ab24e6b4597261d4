#include "engine/step_plan.h"

#include <bit>
#include <concepts>
#include <limits>
#include <type_traits>

namespace moed {
namespace {

// Changes with every change of the fields below.
constexpr std::string_view kMagic = "moedplan";
constexpr uint64_t kVersion = 2;

// ------------------------------------------------------------------------------------------ the fields, each named
// once

template <typename T, typename Struct>
concept Like = std::same_as<std::remove_const_t<T>, Struct>;

template <typename Archive, Like<SamplingParams> T>
void Visit(T& params, Archive& archive) {
  archive(params.temperature, params.top_k, params.top_p, params.min_p);
  archive(params.repetition_penalty, params.presence_penalty, params.frequency_penalty, params.logit_bias);
  archive(params.seed, params.max_tokens, params.min_tokens);
  archive(params.stop, params.stop_token_ids, params.include_stop_in_output, params.ignore_eos);
  archive(params.skip_special_tokens, params.logprobs);
}

template <typename Archive, Like<SlotInit> T>
void Visit(T& init, Archive& archive) {
  archive(init.slot, init.params, init.seed, init.prompt_ids, init.output_ids);
}

template <typename Archive, Like<LogitsRow> T>
void Visit(T& row, Archive& archive) {
  archive(row.token, row.sequence, row.sample, row.return_logits);
}

template <typename Archive, Like<BlockTables> T>
void Visit(T& tables, Archive& archive) {
  archive(tables.starts, tables.ids);
}

template <typename Archive, Like<BlockCopy> T>
void Visit(T& copy, Archive& archive) {
  archive(copy.group, copy.source, copy.destination);
}

template <typename Archive, Like<BlockTransfer> T>
void Visit(T& transfer, Archive& archive) {
  archive(transfer.group, transfer.block, transfer.host_block, transfer.to_host);
}

template <typename Archive, Like<StepPlan> T>
void Visit(T& plan, Archive& archive) {
  archive(plan.step, plan.token_ids, plan.positions, plan.query_starts, plan.slots, plan.block_tables);
  archive(plan.logits_rows, plan.slot_inits, plan.block_copies, plan.transfers);
}

// ------------------------------------------------------------------------------------------------------- the encoding

// Integers are varints of 7 bits a byte, lowest first, as in Protocol Buffers, signed ones in zigzag order (0, -1, 1,
// -2, …), so that the small numbers that plans are full of take a byte or two. Floats are their four bytes, lowest
// first. Strings and vectors begin with their length, optionals with a bool.
class Writer {
 public:
  template <typename... Fields>
  void operator()(const Fields&... fields) {
    (Write(fields), ...);
  }
  std::string Take() { return std::move(bytes_); }

 private:
  void Write(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_.push_back(static_cast<char>(value | 0x80));
    bytes_.push_back(static_cast<char>(value));
  }
  void Write(int32_t value) {
    Write(uint64_t{(static_cast<uint32_t>(value) << 1) ^ static_cast<uint32_t>(value >> 31)});
  }
  void Write(bool value) { bytes_.push_back(value ? 1 : 0); }
  void Write(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    for (int shift = 0; shift < 32; shift += 8) bytes_.push_back(static_cast<char>(bits >> shift));
  }
  void Write(const std::string& value) {
    Write(uint64_t{value.size()});
    bytes_ += value;
  }
  template <typename T>
  void Write(const std::optional<T>& value) {
    Write(value.has_value());
    if (value.has_value()) Write(*value);
  }
  template <typename A, typename B>
  void Write(const std::pair<A, B>& value) {
    (*this)(value.first, value.second);
  }
  template <typename T>
  void Write(const std::vector<T>& values) {
    Write(uint64_t{values.size()});
    for (const T& value : values) Write(value);
  }
  template <typename Struct>
  void Write(const Struct& value) {
    Visit(value, *this);
  }

  std::string bytes_;
};

// The other way. After the first thing that is wrong nothing more is read, and ok() is false.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  template <typename... Fields>
  void operator()(Fields&... fields) {
    (Read(fields), ...);
  }
  bool ok() const { return ok_; }
  size_t position() const { return position_; }
  size_t remaining() const { return bytes_.size() - position_; }

 private:
  void Fail() {
    ok_ = false;
    bytes_ = bytes_.substr(0, position_);
  }
  uint8_t Byte() {
    if (remaining() == 0) {
      Fail();
      return 0;
    }
    return static_cast<uint8_t>(bytes_[position_++]);
  }
  void Read(uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const uint64_t byte = Byte();
      // A plan has one encoding: nothing beyond 64 bits, and no zero at the end.
      if ((shift == 63 && byte > 1) || (shift > 0 && byte == 0)) return Fail();
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return;
    }
  }
  void Read(int32_t& value) {
    uint64_t zigzag;
    Read(zigzag);
    if (zigzag > std::numeric_limits<uint32_t>::max()) return Fail();
    const uint32_t bits = static_cast<uint32_t>(zigzag);
    value = static_cast<int32_t>((bits >> 1) ^ (0 - (bits & 1)));
  }
  void Read(bool& value) {
    const uint8_t byte = Byte();
    if (byte > 1) return Fail();
    value = byte == 1;
  }
  void Read(float& value) {
    uint32_t bits = 0;
    for (int shift = 0; shift < 32; shift += 8) bits |= uint32_t{Byte()} << shift;
    value = std::bit_cast<float>(bits);
  }
  void Read(std::string& value) {
    uint64_t size;
    Read(size);
    if (size > remaining()) return Fail();
    value.assign(bytes_.substr(position_, size));
    position_ += size;
  }
  template <typename T>
  void Read(std::optional<T>& value) {
    bool has_value = false;
    Read(has_value);
    if (has_value) Read(value.emplace());
  }
  template <typename A, typename B>
  void Read(std::pair<A, B>& value) {
    (*this)(value.first, value.second);
  }
  template <typename T>
  void Read(std::vector<T>& values) {
    uint64_t size;
    Read(size);
    // An element takes a byte at least. Larger ones take more, so the vector grows as they come, not on the length's
    // word alone.
    if (size > remaining()) return Fail();
    if constexpr (std::is_arithmetic_v<T>) values.reserve(size);
    for (uint64_t i = 0; i < size && ok_; ++i) Read(values.emplace_back());
  }
  template <typename Struct>
  void Read(Struct& value) {
    Visit(value, *this);
  }

  std::string_view bytes_;
  size_t position_ = 0;
  bool ok_ = true;
};

}  // namespace

std::string SerializePlan(const StepPlan& plan) {
  Writer writer;
  writer(std::string(kMagic), kVersion, plan);
  return writer.Take();
}

absl::StatusOr<StepPlan> ParsePlan(std::string_view bytes) {
  Reader reader(bytes);
  std::string magic;
  uint64_t version = 0;
  reader(magic, version);
  if (magic != kMagic) return DataLoss("not a step plan: it does not begin with \"{}\"", kMagic);
  if (version != kVersion) return DataLoss("step plan of version {}; this program reads version {}", version, kVersion);
  StepPlan plan;
  reader(plan);
  if (!reader.ok()) return DataLoss("step plan of {} bytes is damaged at byte {}", bytes.size(), reader.position());
  if (reader.remaining() > 0) {
    return DataLoss("step plan ends at byte {}, but {} bytes follow", reader.position(), reader.remaining());
  }
  return plan;
}

}  // namespace moed
