#include "tensor/cuda_devices.h"

#include <charconv>

#include "base/text.h"

namespace moed {

std::string CudaDeviceInfo::ToString() const {
  return fmt::format("cuda:{}: {}, compute capability {}.{}, {} of {} free", index, name, major, minor,
                     HumanBytes(free_bytes), HumanBytes(total_bytes));
}

std::string DeviceName(Device device) {
  return device.type == DeviceType::kCpu ? "cpu" : fmt::format("cuda:{}", device.index);
}

std::optional<Device> ParseDevice(std::string_view text) {
  constexpr std::string_view kCuda = "cuda";
  if (text == "cpu") return Device{};
  if (!text.starts_with(kCuda)) return std::nullopt;
  Device device{DeviceType::kCuda, 0};
  text.remove_prefix(kCuda.size());
  if (text.empty()) return device;
  if (text.size() < 2 || text[0] != ':' || text[1] == '-') return std::nullopt;
  const char* const end = text.data() + text.size();
  const auto [parsed, error] = std::from_chars(text.data() + 1, end, device.index);
  if (error != std::errc() || parsed != end) return std::nullopt;
  return device;
}

namespace {

bool IsNewEnough(const CudaDeviceInfo& info) { return info.major >= kMinCudaMajor; }

std::string ListText(const std::vector<CudaDeviceInfo>& devices) {
  std::string text;
  for (const CudaDeviceInfo& info : devices) text += (text.empty() ? "" : "; ") + info.ToString();
  return text;
}

absl::StatusOr<Device> CheckWanted(Device wanted, const std::vector<CudaDeviceInfo>& devices) {
  for (const CudaDeviceInfo& info : devices) {
    if (info.index != wanted.index) continue;
    if (IsNewEnough(info)) return wanted;
    return FailedPrecondition("device {} has compute capability {}.{}; {}.0 is needed at least", DeviceName(wanted),
                              info.major, info.minor, kMinCudaMajor);
  }
  return NotFound("there is no device {}; this machine has {}", DeviceName(wanted), ListText(devices));
}

}  // namespace

absl::StatusOr<Device> ChooseDevice(const std::optional<Device>& wanted,
                                    const absl::StatusOr<std::vector<CudaDeviceInfo>>& listed, std::string* reason) {
  if (wanted && wanted->type == DeviceType::kCpu) return Device{};
  if (wanted) {
    if (!listed.ok()) return Annotate(listed.status(), fmt::format("device {}", DeviceName(*wanted)));
    return CheckWanted(*wanted, *listed);
  }
  if (!listed.ok()) {
    *reason = std::string(Message(listed.status()));
    return Device{};
  }
  for (const CudaDeviceInfo& info : *listed) {
    if (!IsNewEnough(info)) continue;
    *reason = ListText(*listed);
    return Device{DeviceType::kCuda, info.index};
  }
  *reason = fmt::format("no GPU has compute capability {}.0 or more: {}", kMinCudaMajor, ListText(*listed));
  return Device{};
}

}  // namespace moed
