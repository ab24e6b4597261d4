// One target as a libFuzzer program; MOED_FUZZ_TARGET is its name.
#include <cstddef>
#include <cstdint>

#include "base/logging.h"
#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  moed::InitLogging("error");  // warnings of every odd input would fill the log
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const moed::fuzz::Target& target = *moed::fuzz::FindTarget(MOED_FUZZ_TARGET);
  moed::fuzz::RunTarget(target, std::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
