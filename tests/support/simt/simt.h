// The host compiler's side of kernels/common/cuda.h: put before a .cu file by -include, it makes CUDA C++ out of C++.
// README.md tells the conventions that kernels keep for it.
#ifndef TESTS_SUPPORT_SIMT_SIMT_H_
#define TESTS_SUPPORT_SIMT_SIMT_H_

#include <optional>

#include "tensor/cuda_stream.h"
#include "tests/support/simt/device_functions.h"
#include "tests/support/simt/ptx.h"
#include "tests/support/simt/runtime.h"
#include "tests/support/simt/scheduler.h"

#define MOED_SIMT 1

// CUDA's headers make these words empty for a host compiler; here __shared__ must be caught.
#undef __shared__
#define __shared__ MOED_SIMT_error_use_MOED_SHARED_or_MOED_DYNAMIC_SHARED
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__

namespace moed::simt {

template <typename... Parameters>
void Launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_shared_bytes,
            CudaStream* stream, std::type_identity_t<Parameters>... arguments) {
  if (stream != nullptr && !stream->is_open()) return;
  void* const handle = stream == nullptr ? nullptr : stream->handle();
  // The parameters are copied once, as at a launch.
  const auto run = [=] {
    std::optional<DeviceMemoryAccess> access;
    if (handle != nullptr) {
      BeforeLaunch(handle);
      access.emplace();
    }
    auto call = [&] { kernel(arguments...); };
    LaunchGrid(
        name, grid, block, dynamic_shared_bytes, [](void* f) { (*static_cast<decltype(call)*>(f))(); }, &call);
  };
  if (handle != nullptr && IsCapturing(handle)) return Record(handle, run);
  run();
}

}  // namespace moed::simt

#define MOED_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::moed::simt::Launch(#kernel, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
#define MOED_LAUNCH_DEPENDENT MOED_LAUNCH
#define MOED_SHARED(T, name, dims)                   \
  static const char moed_site_##name = 0;            \
  using MoedSharedType_##name = T dims;              \
  auto& name = *static_cast<MoedSharedType_##name*>( \
      ::moed::simt::StaticShared(&moed_site_##name, sizeof(MoedSharedType_##name), alignof(MoedSharedType_##name)))
#define MOED_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(::moed::simt::DynamicShared())

#endif  // TESTS_SUPPORT_SIMT_SIMT_H_
