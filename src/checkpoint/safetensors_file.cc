#include "checkpoint/safetensors_file.h"

#include <bit>
#include <cstring>
#include <utility>

namespace moed {

static_assert(std::endian::native == std::endian::little, "tensors are used as they lie in the file, little-endian");

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  MOED_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  absl::StatusOr<SafetensorsHeader> header = ParseSafetensorsHeader(file.contents());
  if (!header.ok()) return Annotate(header.status(), path);
  return std::unique_ptr<SafetensorsFile>(new SafetensorsFile(std::move(file), *std::move(header)));
}

SafetensorsFile::SafetensorsFile(MappedFile file, SafetensorsHeader header)
    : file_(std::move(file)), header_(std::move(header)) {
  by_name_.reserve(header_.entries.size());
  for (const SafetensorsEntry& entry : header_.entries) by_name_.emplace(entry.name, &entry);
}

const SafetensorsEntry* SafetensorsFile::Find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : it->second;
}

absl::StatusOr<TensorView> SafetensorsFile::Get(std::string_view name) {
  const SafetensorsEntry* entry = Find(name);
  if (entry != nullptr && entry->dtype.has_value()) return View(*entry, *entry->dtype, /*read_ahead=*/true);
  if (entry == nullptr) return NotFound("{}: there is no tensor \"{}\"", path(), name);
  return Unimplemented("{}: tensor \"{}\" is of type {}, which is not supported yet", path(), name, entry->dtype_name);
}

absl::StatusOr<TensorView> SafetensorsFile::GetRaw(std::string_view name, bool read_ahead) {
  const SafetensorsEntry* entry = Find(name);
  if (entry != nullptr && entry->dtype.has_value()) return View(*entry, *entry->dtype, read_ahead);
  if (entry != nullptr && entry->dtype_name.starts_with("F8_")) return View(*entry, DType::kU8, read_ahead);
  return Get(name);
}

absl::StatusOr<TensorView> SafetensorsFile::View(const SafetensorsEntry& described, DType dtype, bool read_ahead) {
  const SafetensorsEntry* const entry = &described;
  if (entry->shape.size() > TensorView::kMaxRank) {
    return Unimplemented("{}: tensor \"{}\" has {} dimensions; at most {} are supported", path(), entry->name,
                         entry->shape.size(), TensorView::kMaxRank);
  }
  TensorView view;
  view.dtype = dtype;
  view.rank = static_cast<int>(entry->shape.size());
  int64_t stride = 1;
  for (int i = view.rank - 1; i >= 0; --i) {
    view.shape[i] = entry->shape[i];
    view.strides[i] = stride;
    stride *= view.shape[i];
  }
  const char* data = file_.data() + entry->offset;
  if (read_ahead) file_.WillNeed(entry->offset, entry->num_bytes);
  if (reinterpret_cast<uintptr_t>(data) % DTypeSize(view.dtype) == 0) {
    view.data = const_cast<char*>(data);
    return view;
  }
  const std::lock_guard lock(mutex_);
  Buffer& copy = aligned_copies_[entry];
  if (copy.data() == nullptr) {
    MOED_ASSIGN_OR_RETURN(copy, Buffer::Allocate(entry->num_bytes));
    std::memcpy(copy.data(), data, entry->num_bytes);
  }
  view.data = copy.data();
  return view;
}

void SafetensorsFile::WillNeed(std::string_view prefix) const {
  for (const SafetensorsEntry& entry : header_.entries) {
    if (entry.name.starts_with(prefix)) file_.WillNeed(entry.offset, entry.num_bytes);
  }
}

void SafetensorsFile::Release(std::string_view name) {
  const SafetensorsEntry* entry = Find(name);
  if (entry == nullptr) return;
  file_.DontNeed(entry->offset, entry->num_bytes);
  const std::lock_guard lock(mutex_);
  aligned_copies_.erase(entry);
}

}  // namespace moed
