#include "tensor/tensor_view.h"

#include <algorithm>

#include "base/logging.h"

namespace moed {

TensorView::TensorView(void* pointer, std::initializer_list<int64_t> dims, DType type, Device where)
    : data(pointer), rank(static_cast<int>(dims.size())), dtype(type), device(where) {
  MOED_CHECK(rank <= kMaxRank, "rank {}", rank);
  std::copy(dims.begin(), dims.end(), shape);
  int64_t stride = 1;
  for (int i = rank - 1; i >= 0; --i) {
    strides[i] = stride;
    stride *= shape[i];
  }
}

int64_t TensorView::num_elements() const {
  int64_t count = 1;
  for (int i = 0; i < rank; ++i) count *= shape[i];
  return count;
}

bool TensorView::IsContiguous() const {
  int64_t expected = 1;
  for (int i = rank - 1; i >= 0; --i) {
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

bool TensorView::HasShape(std::initializer_list<int64_t> dims) const {
  return static_cast<int>(dims.size()) == rank && std::equal(dims.begin(), dims.end(), shape);
}

TensorView TensorView::Rows(int64_t begin, int64_t end) const {
  MOED_CHECK(rank >= 1 && 0 <= begin && begin <= end && end <= shape[0], "rows [{}, {}) of {}", begin, end, ToString());
  TensorView view = *this;
  view.data = static_cast<char*>(data) + begin * strides[0] * static_cast<int64_t>(DTypeSize(dtype));
  view.shape[0] = end - begin;
  return view;
}

TensorView TensorView::Columns(int64_t begin, int64_t end) const {
  MOED_CHECK(rank >= 1 && 0 <= begin && begin <= end && end <= shape[rank - 1], "columns [{}, {}) of {}", begin, end,
             ToString());
  TensorView view = *this;
  view.data = static_cast<char*>(data) + begin * strides[rank - 1] * static_cast<int64_t>(DTypeSize(dtype));
  view.shape[rank - 1] = end - begin;
  return view;
}

TensorView TensorView::SplitLast(int64_t n, int64_t d) const {
  MOED_CHECK(rank >= 1 && rank < kMaxRank && shape[rank - 1] == n * d, "[{}, {}] of {}", n, d, ToString());
  TensorView view = *this;
  view.rank = rank + 1;
  view.shape[rank - 1] = n;
  view.shape[rank] = d;
  view.strides[rank] = strides[rank - 1];
  view.strides[rank - 1] = d * strides[rank - 1];
  return view;
}

std::string TensorView::ToString() const {
  std::string text(DTypeName(dtype));
  text += '[';
  for (int i = 0; i < rank; ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + ']';
}

}  // namespace moed
