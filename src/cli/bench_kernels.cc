// moed bench kernels: how fast single kernels are on a GPU.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/logging.h"
#include "cli/commands.h"
#include "engine/kernel_bench.h"
#include "tensor/cuda_devices.h"

namespace moed {
namespace {

struct KernelFlags {
  std::string device = "cuda";
  std::string out;
};

// "GB/s" and the like, in units of which a few hundreds or thousands are usual.
std::string_view UnitOf(KernelLimit limit) { return limit == KernelLimit::kBytes ? "GB/s" : "TOP/s"; }
double InUnits(KernelLimit limit, double amount) { return amount / (limit == KernelLimit::kBytes ? 1e9 : 1e12); }

nlohmann::json CeilingsJson(const KernelCeilings& ceilings) {
  return {{"copy_gb_per_s", ceilings.bytes / 1e9},
          {"cublas_bf16_top_per_s", ceilings.bf16_operations / 1e12},
          {"cublas_int8_top_per_s", ceilings.int8_operations / 1e12}};
}

nlohmann::json ResultJson(const KernelResult& result) {
  return {{"kernel", result.kernel},
          {"shape", result.shape},
          {"us", 1e6 * result.seconds},
          {"rate", InUnits(result.limit, result.amount / result.seconds)},
          {"unit", std::string(UnitOf(result.limit))},
          {"fraction", result.fraction},
          {"bar", result.bar}};
}

void PrintResult(const KernelResult& result) {
  const double rate = InUnits(result.limit, result.amount / result.seconds);
  fmt::print("{:<18} {:<46} {:>10.1f} {:>9.1f} {:<5} {:>8.2f} {:>6}\n", result.kernel, result.shape,
             1e6 * result.seconds, rate, UnitOf(result.limit), result.fraction,
             result.bar > 0 ? fmt::format("{:.2f}", result.bar) : "");
  std::fflush(stdout);
}

// Written anew with each result, so that a run that is cut off leaves what it had.
absl::Status WriteReport(const std::string& path, const nlohmann::json& report) {
  if (path.empty()) return absl::OkStatus();
  std::ofstream file(path);
  file << report.dump(2) << "\n";
  return file.flush() ? absl::OkStatus() : InvalidArgument("{} cannot be written", path);
}

absl::StatusOr<Device> GpuOf(const std::string& name) {
  const std::optional<Device> device = ParseDevice(name);
  if (!device || device->type != DeviceType::kCuda) {
    return InvalidArgument("device is \"{}\"; it must be cuda or cuda:N", name);
  }
  return ChooseDevice(device, ListCudaDevices(), nullptr);
}

absl::Status BenchKernels(const KernelFlags& flags) {
  MOED_ASSIGN_OR_RETURN(const Device device, GpuOf(flags.device));
  MOED_ASSIGN_OR_RETURN(const std::unique_ptr<CudaStream> stream, CudaStream::Create(device));
  stream->MakeCurrent();
  Workspace workspace(stream.get());
  ExecContext ctx;
  ctx.device = device;
  ctx.workspace = &workspace;
  ctx.stream = stream.get();

  MOED_ASSIGN_OR_RETURN(const KernelCeilings ceilings, MeasureKernelCeilings(ctx));
  fmt::print("{}: copy {:.0f} GB/s, cuBLAS bf16 {:.0f} and int8 {:.0f} TOP/s\n", DeviceName(device),
             ceilings.bytes / 1e9, ceilings.bf16_operations / 1e12, ceilings.int8_operations / 1e12);
  fmt::print("{:<18} {:<46} {:>10} {:>9} {:<5} {:>8} {:>6}\n", "kernel", "shape", "us", "rate", "", "fraction", "bar");
  nlohmann::json report = {{"ceilings", CeilingsJson(ceilings)}, {"kernels", nlohmann::json::array()}};
  absl::Status written = WriteReport(flags.out, report);
  MOED_RETURN_IF_ERROR(RunKernelBench(ctx, KernelBenchShapes(), ceilings, [&](const KernelResult& result) {
    PrintResult(result);
    report["kernels"].push_back(ResultJson(result));
    if (written.ok()) written = WriteReport(flags.out, report);
  }));
  return written;
}

}  // namespace

Command AddBenchKernelsCommand(CLI::App* bench) {
  CLI::App* command = bench->add_subcommand("kernels", "Single kernels on a GPU, in the shapes of real models");
  command->footer(
      "Kernels that wait for memory are fractions of the bandwidth of a copy, the others of cuBLAS's rate in a large\n"
      "product; both are measured first.\n"
      "\n"
      "Example:\n"
      "  moed bench kernels --device cuda:1 --out kernels.json");
  auto flags = std::make_shared<KernelFlags>();
  command->add_option("--device", flags->device, "cuda or cuda:N")->capture_default_str();
  command->add_option("--out", flags->out, "File for the results as JSON");
  return {command, [flags] { return BenchKernels(*flags); }};
}

}  // namespace moed
