#include "kernels/common/op.h"

#include "base/logging.h"

namespace moed::kernels {

void NotInThisBuild(const char* body) { MOED_CHECK(false, "{} is not in this build", body); }

}  // namespace moed::kernels
