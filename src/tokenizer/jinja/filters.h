// The tables of filters, by what they work on.
#ifndef MOED_TOKENIZER_JINJA_FILTERS_H_
#define MOED_TOKENIZER_JINJA_FILTERS_H_

#include <map>
#include <string_view>

#include "tokenizer/jinja/builtins.h"

namespace moed::jinja {

using FilterTable = std::map<std::string_view, FilterFunction>;

const FilterTable& TextFilters();      // and numbers: trim, replace, tojson, int, round …
const FilterTable& SequenceFilters();  // join, map, select, sort, groupby …

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_FILTERS_H_
