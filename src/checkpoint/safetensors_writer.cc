#include "checkpoint/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "checkpoint/message_text.h"
#include "checkpoint/safetensors_header.h"

namespace moed {
namespace {

// The data begins at a multiple of this in the file, so that every element size that the format has is aligned.
constexpr size_t kDataAlignment = 64;

absl::Status WriteAt(int fd, const std::string& path, const void* data, size_t size, uint64_t offset) {
  const char* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = pwrite(fd, bytes, size, static_cast<off_t>(offset));
    if (written < 0) {
      if (errno == EINTR) continue;
      return absl::ErrnoToStatus(errno, fmt::format("{}: cannot write {} bytes", path, size));
    }
    bytes += written;
    size -= static_cast<size_t>(written);
    offset += static_cast<uint64_t>(written);
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> SpecBytes(const SafetensorsWriter::Spec& spec) {
  int64_t total = static_cast<int64_t>(DTypeSize(spec.dtype));
  for (int64_t dim : spec.shape) {
    if (dim < 0 || __builtin_mul_overflow(total, dim, &total)) {
      return InvalidArgument("tensor {}: shape [{}] is negative or too large", Quoted(spec.name),
                             fmt::join(spec.shape, ", "));
    }
  }
  return static_cast<uint64_t>(total);
}

}  // namespace

struct SafetensorsWriter::Slot {
  Spec spec;
  uint64_t begin = 0;  // in the data, then in the file
  uint64_t num_bytes = 0;
  bool written = false;
};

SafetensorsWriter::SafetensorsWriter(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(partial_path().c_str());
}

// The length, the JSON and its padding: all that comes before the data.
absl::StatusOr<std::string> SafetensorsWriter::HeaderBytes(const std::string& path, const Slots& slots,
                                                           const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  try {
    if (!metadata.empty()) text += fmt::format("\"__metadata__\":{},", nlohmann::json(metadata).dump());
    for (const auto& [name, slot] : slots) {
      text += fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}},)", nlohmann::json(name).dump(),
                          SafetensorsDTypeName(slot.spec.dtype), fmt::join(slot.spec.shape, ","), slot.begin,
                          slot.begin + slot.num_bytes);
    }
  } catch (const nlohmann::json::exception& error) {
    return InvalidArgument("{}: a name is not UTF-8: {}", path, JsonErrorText(error.what()));
  }
  if (text.back() == ',') text.pop_back();
  text += '}';
  text.append((kDataAlignment - (sizeof(uint64_t) + text.size()) % kDataAlignment) % kDataAlignment, ' ');
  if (text.size() > kMaxSafetensorsHeaderBytes) {
    return InvalidArgument("{}: the header of {} tensors has {} bytes; at most {} are allowed", path, slots.size(),
                           text.size(), kMaxSafetensorsHeaderBytes);
  }
  std::string length;
  for (size_t i = 0; i < sizeof(uint64_t); ++i) length += static_cast<char>(text.size() >> (8 * i));
  return length + text;
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, std::vector<Spec> specs, const std::map<std::string, std::string>& metadata) {
  std::stable_sort(specs.begin(), specs.end(),
                   [](const Spec& a, const Spec& b) { return DTypeSize(a.dtype) > DTypeSize(b.dtype); });
  Slots slots;
  uint64_t end = 0;
  for (Spec& spec : specs) {
    if (spec.name == "__metadata__") return InvalidArgument("no tensor may be called \"__metadata__\"");
    MOED_ASSIGN_OR_RETURN(const uint64_t num_bytes, SpecBytes(spec));
    const uint64_t begin = end;
    if (__builtin_add_overflow(begin, num_bytes, &end)) return InvalidArgument("{}: the tensors are too large", path);
    const std::string name = spec.name;
    if (!slots.emplace(name, Slot{std::move(spec), begin, num_bytes}).second) {
      return InvalidArgument("{}: tensor {} is given twice", path, Quoted(name));
    }
  }
  MOED_ASSIGN_OR_RETURN(const std::string header, HeaderBytes(path, slots, metadata));

  const std::string partial = path + ".partial";
  const int fd = open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return absl::ErrnoToStatus(errno, fmt::format("{}: cannot create", partial));
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(path, fd));
  for (auto& [name, slot] : slots) slot.begin += header.size();
  writer->slots_ = std::move(slots);
  MOED_RETURN_IF_ERROR(WriteAt(fd, partial, header.data(), header.size(), 0));
  return writer;
}

absl::Status SafetensorsWriter::Write(std::string_view name, const TensorView& tensor) {
  const auto it = slots_.find(name);
  if (it == slots_.end()) return InvalidArgument("{}: tensor {} was not declared", path_, Quoted(name));
  Slot& slot = it->second;
  const bool same_shape =
      std::equal(tensor.shape, tensor.shape + tensor.rank, slot.spec.shape.begin(), slot.spec.shape.end());
  if (tensor.dtype != slot.spec.dtype || !same_shape || !tensor.IsContiguous()) {
    return InvalidArgument("{}: tensor {} is {}{}; it was declared as {}[{}]", path_, Quoted(name), tensor.ToString(),
                           tensor.IsContiguous() ? "" : " (strided)", DTypeName(slot.spec.dtype),
                           fmt::join(slot.spec.shape, ", "));
  }
  if (slot.written) return FailedPrecondition("{}: tensor {} was written before", path_, Quoted(name));
  MOED_RETURN_IF_ERROR(WriteAt(fd_, partial_path(), tensor.data, slot.num_bytes, slot.begin));
  slot.written = true;
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  for (const auto& [name, slot] : slots_) {
    if (!slot.written) return FailedPrecondition("{}: tensor {} was never written", path_, Quoted(name));
  }
  // On the disk before the name, so that a crash leaves the whole file or none.
  if (fsync(fd_) != 0) return absl::ErrnoToStatus(errno, fmt::format("{}: cannot write", partial_path()));
  if (close(std::exchange(fd_, -1)) != 0) {
    return absl::ErrnoToStatus(errno, fmt::format("{}: cannot write", partial_path()));
  }
  if (rename(partial_path().c_str(), path_.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, fmt::format("{}: cannot rename to {}", partial_path(), path_));
  }
  return absl::OkStatus();
}

absl::Status WriteSafetensors(const std::string& path, const std::vector<std::pair<std::string, TensorView>>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  std::vector<SafetensorsWriter::Spec> specs;
  specs.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) {
    specs.push_back({name, tensor.dtype, std::vector<int64_t>(tensor.shape, tensor.shape + tensor.rank)});
  }
  MOED_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(path, std::move(specs), metadata));
  for (const auto& [name, tensor] : tensors) MOED_RETURN_IF_ERROR(writer->Write(name, tensor));
  return writer->Finish();
}

}  // namespace moed
