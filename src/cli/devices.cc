// moed devices: what a model can be computed on here.
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "base/cpu_info.h"
#include "cli/commands.h"
#include "tensor/cuda_devices.h"

namespace moed {
namespace {

absl::Status Devices() {
  fmt::print("cpu: {} processors, {}\n", NumUsableCpus(), IsaName(BestIsa()));
  const auto devices = ListCudaDevices();
  if (devices.ok()) {
    for (const CudaDeviceInfo& info : *devices) fmt::print("{}\n", info.ToString());
  } else {
    fmt::print("no cuda: {}\n", Message(devices.status()));
  }
  std::string reason;
  MOED_ASSIGN_OR_RETURN(const Device chosen, ChooseDevice(std::nullopt, devices, &reason));
  fmt::print("--device auto is {}\n", DeviceName(chosen));
  return absl::OkStatus();
}

}  // namespace

Command AddDevicesCommand(CLI::App* app) {
  CLI::App* command = app->add_subcommand("devices", "The processors and GPUs that --device can name");
  return {command, Devices};
}

}  // namespace moed
