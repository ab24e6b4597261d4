#include <algorithm>
#include <functional>

#include "tokenizer/jinja/evaluator.h"
#include "tokenizer/jinja/filters.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/text.h"
#include "tokenizer/jinja/unicode.h"

namespace moed::jinja {
namespace {

// ---- What the filters take elements by ----

// A path like "function.arguments.0", or a whole number.
using Path = std::vector<Value>;

Path ParsePath(const Value& attribute, Budget& budget) {
  if (attribute.IsNone()) return {};
  if (!attribute.IsString()) return {attribute};
  Path path;
  const std::string& text = attribute.AsString();
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('.', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    budget.Allocate(sizeof(Value) + sizeof(StringObject));
    const bool number = !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos;
    path.push_back(number ? Value::Int(std::stoi(part)) : Value::String(part));
    begin = end + 1;
  }
  return path;
}

Value Follow(Evaluator& evaluator, Value value, const Path& path, const Value& fallback = Value()) {
  evaluator.budget().Step(4 * path.size());  // a part that is not found makes a message
  for (const Value& part : path) {
    value = evaluator.GetItem(value, part);
    if (value.IsUndefined() && !fallback.IsNone()) value = fallback;
  }
  return value;
}

Value IgnoreCase(Evaluator& evaluator, const Value& value) {
  if (!value.IsString()) return value;
  return MakeString(ToLower(value.AsString()), evaluator.budget());
}

// An element and what it is compared by.
struct Keyed {
  Value key;
  Value item;
};

std::vector<Keyed> WithKeys(Evaluator& evaluator, const std::vector<Value>& items, const Value& attribute,
                            bool case_sensitive, const Value& fallback = Value()) {
  const Path path = ParsePath(attribute, evaluator.budget());
  std::vector<Keyed> keyed;
  keyed.reserve(items.size());
  for (const Value& item : items) {
    Value key = Follow(evaluator, item, path, fallback);
    keyed.push_back({case_sensitive ? std::move(key) : IgnoreCase(evaluator, key), item});
  }
  return keyed;
}

void SortByKey(Evaluator& evaluator, std::vector<Keyed>* keyed, bool reverse) {
  std::stable_sort(keyed->begin(), keyed->end(), [&](const Keyed& a, const Keyed& b) {
    return reverse ? Less(b.key, a.key, evaluator.budget()) : Less(a.key, b.key, evaluator.budget());
  });
}

// ---- Length, ends, order ----

Value LengthFilter(Evaluator&, const Value& input, Arguments& arguments) {
  const Parameters none("length", {}, arguments);
  return Value::Int(static_cast<Integer>(Length(input)));
}

Value First(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters none("first", {}, arguments);
  if (input.Is(Kind::kIterator)) {
    auto iterator = input.Shared<IteratorObject>();
    if (iterator->next < iterator->items.size()) return iterator->items[iterator->next++];
  } else {
    const std::vector<Value> items = Iterate(input, evaluator.budget());
    if (!items.empty()) return items.front();
  }
  return Value::Undefined("No first item, sequence was empty.");
}

bool IsReversible(const Value& value) { return HasLength(value) && !value.Is(Kind::kCallable); }

Value Last(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters none("last", {}, arguments);
  if (!IsReversible(input)) Fail("'{}' object is not reversible", TypeName(input));
  const std::vector<Value> items = Iterate(input, evaluator.budget());
  return items.empty() ? Value::Undefined("No last item, sequence was empty.") : items.back();
}

Value List(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters none("list", {}, arguments);
  return MakeList(Iterate(input, evaluator.budget()), evaluator.budget());
}

std::string_view ReverseIteratorName(const Value& value) {
  switch (value.kind()) {
    case Kind::kList:
      return "list_reverseiterator";
    case Kind::kDict:
      return "dict_reversekeyiterator";
    case Kind::kRange:
      return "range_iterator";
    default:
      return "reversed";
  }
}

Value Reverse(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters none("reverse", {}, arguments);
  Budget& budget = evaluator.budget();
  if (input.IsString()) {
    budget.AllocateRepeated(input.string_object().length, sizeof(char32_t));
    std::u32string code_points = ToCodePoints(input.AsString());
    std::reverse(code_points.begin(), code_points.end());
    return MakeString(ToUtf8(code_points), budget, input.string_object().markup);
  }
  std::vector<Value> items = Iterate(input, budget);
  std::reverse(items.begin(), items.end());
  if (!IsReversible(input)) return MakeList(std::move(items), budget);
  return MakeIterator(std::move(items), budget, ReverseIteratorName(input));
}

Value Items(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters none("items", {}, arguments);
  std::vector<Value> pairs;
  if (input.Is(Kind::kDict)) {
    for (const auto& [key, value] : input.dict().entries) pairs.push_back(MakeTuple({key, value}, evaluator.budget()));
  } else if (!input.IsUndefined()) {
    Fail("Can only get item pairs from a mapping.");
  }
  return MakeIterator(std::move(pairs), evaluator.budget());
}

Value DictSort(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters parameters("dictsort", {"case_sensitive", "by", "reverse"}, arguments);
  const std::string by = parameters.Has(1) ? parameters.String(1) : "key";
  if (by != "key" && by != "value") Fail("You can only sort by either \"key\" or \"value\"");
  if (!input.Is(Kind::kDict)) Fail("'{}' object has no attribute 'items'", TypeName(input));
  std::vector<Keyed> keyed;
  for (const auto& [key, value] : input.dict().entries) {
    const Value& by_what = by == "key" ? key : value;
    keyed.push_back({parameters.Truth(0, false) ? by_what : IgnoreCase(evaluator, by_what),
                     MakeTuple({key, value}, evaluator.budget())});
  }
  SortByKey(evaluator, &keyed, parameters.Truth(2, false));
  std::vector<Value> pairs;
  pairs.reserve(keyed.size());
  for (Keyed& entry : keyed) pairs.push_back(std::move(entry.item));
  return MakeList(std::move(pairs), evaluator.budget());
}

// The attribute may name several, parted by commas: the first that differs decides.
Value Sort(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters parameters("sort", {"reverse", "case_sensitive", "attribute"}, arguments);
  const bool case_sensitive = parameters.Truth(1, false);
  const Value attribute = parameters.Get(2, Value());
  std::vector<Path> paths;
  if (attribute.IsString()) {
    const std::string& text = attribute.AsString();
    for (size_t begin = 0; begin <= text.size();) {
      const size_t end = std::min(text.find(',', begin), text.size());
      paths.push_back(ParsePath(Value::String(text.substr(begin, end - begin)), evaluator.budget()));
      begin = end + 1;
    }
  } else {
    paths.push_back(ParsePath(attribute, evaluator.budget()));
  }
  std::vector<Keyed> keyed;
  for (Value& item : Iterate(input, evaluator.budget())) {
    std::vector<Value> key;
    for (const Path& path : paths) {
      Value part = Follow(evaluator, item, path);
      key.push_back(case_sensitive ? std::move(part) : IgnoreCase(evaluator, part));
    }
    keyed.push_back({MakeList(std::move(key), evaluator.budget()), std::move(item)});
  }
  SortByKey(evaluator, &keyed, parameters.Truth(0, false));
  std::vector<Value> sorted;
  sorted.reserve(keyed.size());
  for (Keyed& entry : keyed) sorted.push_back(std::move(entry.item));
  return MakeList(std::move(sorted), evaluator.budget());
}

Value Unique(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters parameters("unique", {"case_sensitive", "attribute"}, arguments);
  Budget& budget = evaluator.budget();
  std::vector<Value> unique;
  DictObject index;
  for (Keyed& entry :
       WithKeys(evaluator, Iterate(input, budget), parameters.Get(1, Value()), parameters.Truth(0, false))) {
    const size_t hash = Hash(entry.key, budget);
    const auto [begin, end] = index.index.equal_range(hash);
    const bool known = std::any_of(begin, end, [&](const auto& candidate) {
      return Equal(index.entries[candidate.second].first, entry.key, budget);
    });
    if (known) continue;
    index.index.emplace(hash, static_cast<uint32_t>(index.entries.size()));
    index.entries.emplace_back(std::move(entry.key), Value());
    unique.push_back(std::move(entry.item));
  }
  return MakeIterator(std::move(unique), budget);
}

template <bool kLargest>
Value Extreme(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters parameters(kLargest ? "max" : "min", {"case_sensitive", "attribute"}, arguments);
  std::vector<Keyed> keyed =
      WithKeys(evaluator, Iterate(input, evaluator.budget()), parameters.Get(1, Value()), parameters.Truth(0, false));
  if (keyed.empty()) return Value::Undefined("No aggregated item, sequence was empty.");
  size_t best = 0;
  for (size_t i = 1; i < keyed.size(); ++i) {
    const bool better = kLargest ? Compare(CompareOperator::kGreater, keyed[i].key, keyed[best].key, evaluator.budget())
                                 : Less(keyed[i].key, keyed[best].key, evaluator.budget());
    if (better) best = i;
  }
  return keyed[best].item;
}

Value Sum(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters parameters("sum", {"attribute", "start"}, arguments);
  Value sum = parameters.Get(1, Value::Int(0));
  if (sum.IsString()) Fail("sum() can't sum strings [use ''.join(seq) instead]");
  const Path path = ParsePath(parameters.Get(0, Value()), evaluator.budget());
  for (const Value& item : Iterate(input, evaluator.budget())) {
    sum = Arithmetic(BinaryOperator::kAdd, sum, Follow(evaluator, item, path), evaluator.budget());
  }
  return sum;
}

Value Join(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters parameters("join", {"d", "attribute"}, arguments);
  Budget& budget = evaluator.budget();
  const std::string separator = parameters.Has(0) ? Str(parameters[0], budget) : "";
  const Path path = ParsePath(parameters.Get(1, Value()), budget);
  std::string text;
  bool first = true;
  for (const Value& item : Iterate(input, budget)) {
    if (!first) {
      budget.Allocate(separator.size());
      text += separator;
    }
    first = false;
    AppendStr(&text, Follow(evaluator, item, path), budget);
  }
  return MakeString(std::move(text), budget);
}

// ---- Groups ----

Value Batch(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters parameters("batch", {"linecount", "fill_with"}, arguments, 1);
  Budget& budget = evaluator.budget();
  const int64_t count = parameters.Int(0, 1);
  const auto size = static_cast<size_t>(std::max<int64_t>(count, 0));
  std::vector<Value> batches;
  std::vector<Value> batch;
  for (Value& item : Iterate(input, budget)) {
    if (batch.size() == size && count >= 0) {
      batches.push_back(MakeList(std::move(batch), budget));
      batch = {};
    }
    batch.push_back(std::move(item));
  }
  if (!batch.empty()) {
    if (parameters.Given(1) && batch.size() < size) {
      budget.AllocateRepeated(size, sizeof(Value));
      batch.resize(size, parameters[1]);
    }
    batches.push_back(MakeList(std::move(batch), budget));
  }
  return MakeIterator(std::move(batches), budget);
}

Value SliceFilter(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters parameters("slice", {"slices", "fill_with"}, arguments, 1);
  Budget& budget = evaluator.budget();
  const int64_t slices = parameters.Int(0, 1);
  if (slices == 0) Fail("integer division or modulo by zero");
  const std::vector<Value> items = Iterate(input, budget);
  std::vector<Value> columns;
  if (slices > 0) {
    budget.AllocateRepeated(static_cast<uint64_t>(slices), 2 * sizeof(Value));
    const size_t short_size = items.size() / static_cast<size_t>(slices);
    const size_t longer = items.size() % static_cast<size_t>(slices);
    size_t begin = 0;
    for (size_t i = 0; i < static_cast<size_t>(slices); ++i) {
      const size_t size = short_size + (i < longer ? 1 : 0);
      std::vector<Value> column(items.begin() + static_cast<ptrdiff_t>(begin),
                                items.begin() + static_cast<ptrdiff_t>(begin + size));
      if (parameters.Given(1) && i >= longer) column.push_back(parameters[1]);
      columns.push_back(MakeList(std::move(column), budget));
      begin += size;
    }
  }
  return MakeIterator(std::move(columns), budget);
}

Value GroupBy(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters parameters("groupby", {"attribute", "default", "case_sensitive"}, arguments, 1);
  Budget& budget = evaluator.budget();
  const Value fallback = parameters.Get(1, Value());
  std::vector<Keyed> keyed =
      WithKeys(evaluator, Iterate(input, budget), parameters[0], parameters.Truth(2, false), fallback);
  SortByKey(evaluator, &keyed, false);
  std::vector<Value> groups;
  for (size_t begin = 0; begin < keyed.size();) {
    size_t end = begin;
    std::vector<Value> items;
    for (; end < keyed.size() && Equal(keyed[begin].key, keyed[end].key, budget); ++end) {
      items.push_back(keyed[end].item);
    }
    if (end == begin) Fail("groupby: a key that does not equal itself (nan)");
    // The name of a group is spelled as in its first item.
    const Value grouper = Follow(evaluator, keyed[begin].item, ParsePath(parameters[0], budget), fallback);
    auto group = std::make_shared<SequenceObject>();
    group->items = {grouper, MakeList(std::move(items), budget)};
    group->group = true;
    SetDepth(*group, group->items, budget);
    groups.push_back(Value::Of(Kind::kTuple, std::move(group)));
    begin = end;
  }
  return MakeList(std::move(groups), budget);
}

// ---- map and select ----

// Each element's call takes the arguments out of a copy of its own.
Arguments CopyOf(const Arguments& arguments, Budget& budget) {
  budget.AllocateRepeated(arguments.positional.size() + arguments.keyword.size(), sizeof(Value));
  return arguments;
}

Value Map(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  Budget& budget = evaluator.budget();
  std::vector<Value> mapped;
  if (!Truthy(input)) return MakeIterator({}, budget);
  if (arguments.positional.empty() && std::any_of(arguments.keyword.begin(), arguments.keyword.end(),
                                                  [](const auto& entry) { return entry.first == "attribute"; })) {
    const Parameters parameters("map", {"attribute", "default"}, arguments);
    const Path path = ParsePath(parameters[0], budget);
    for (const Value& item : Iterate(input, budget)) {
      mapped.push_back(Follow(evaluator, item, path, parameters.Get(1, Value())));
    }
    return MakeIterator(std::move(mapped), budget);
  }
  if (arguments.positional.empty()) Fail("map requires a filter argument");
  const Value filter = arguments.positional.front();
  if (!filter.IsString()) Fail("No filter named {}.", Repr(filter, budget));
  arguments.positional.erase(arguments.positional.begin());
  for (const Value& item : Iterate(input, budget)) {
    Arguments copy = CopyOf(arguments, budget);
    mapped.push_back(evaluator.CallFilter(filter.AsString(), item, copy));
  }
  return MakeIterator(std::move(mapped), budget);
}

// select, reject, selectattr, rejectattr: the elements that pass, or fail, a test.
template <bool kKeepPassing, bool kByAttribute>
Value Select(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  Budget& budget = evaluator.budget();
  std::vector<Value> picked;
  if (!Truthy(input)) return MakeIterator({}, budget);
  Path path;
  if (kByAttribute) {
    if (arguments.positional.empty()) Fail("Missing parameter for attribute name");
    path = ParsePath(arguments.positional.front(), budget);
    arguments.positional.erase(arguments.positional.begin());
  }
  std::optional<Value> test;
  if (!arguments.positional.empty()) {
    test = arguments.positional.front();
    if (!test->IsString()) Fail("No test named {}.", Repr(*test, budget));
    arguments.positional.erase(arguments.positional.begin());
  }
  for (Value& item : Iterate(input, budget)) {
    const Value subject = kByAttribute ? Follow(evaluator, item, path) : item;
    Arguments copy = CopyOf(arguments, budget);
    const bool passes = test.has_value() ? evaluator.CallTest(test->AsString(), subject, copy) : Truthy(subject);
    if (passes == kKeepPassing) picked.push_back(std::move(item));
  }
  return MakeIterator(std::move(picked), budget);
}

// ---- Others ----

Value Default(Evaluator&, const Value& input, Arguments& arguments) {
  const Parameters parameters("default", {"default_value", "boolean"}, arguments);
  const bool replace = input.IsUndefined() || (parameters.Truth(1, false) && !Truthy(input));
  return replace ? parameters.Get(0, Value::String("")) : input;
}

Value Attribute(Evaluator&, const Value& input, Arguments& arguments) {
  const Parameters parameters("attr", {"name"}, arguments, 1);
  if (input.IsUndefined()) Fail("{}", input.undefined_message());
  const std::string& name = parameters.String(0);
  if (std::optional<Value> found = FindAttribute(input, name)) return *std::move(found);
  return Value::Undefined(fmt::format("'{} object' has no attribute '{}'", TypeName(input), name));
}

}  // namespace

const FilterTable& SequenceFilters() {
  static const FilterTable kTable = {
      {"attr", Attribute},
      {"batch", Batch},
      {"count", LengthFilter},
      {"d", Default},
      {"default", Default},
      {"dictsort", DictSort},
      {"first", First},
      {"groupby", GroupBy},
      {"items", Items},
      {"join", Join},
      {"last", Last},
      {"length", LengthFilter},
      {"list", List},
      {"map", Map},
      {"max", Extreme<true>},
      {"min", Extreme<false>},
      {"reject", Select<false, false>},
      {"rejectattr", Select<false, true>},
      {"reverse", Reverse},
      {"select", Select<true, false>},
      {"selectattr", Select<true, true>},
      {"slice", SliceFilter},
      {"sort", Sort},
      {"sum", Sum},
      {"unique", Unique},
  };
  return kTable;
}

}  // namespace moed::jinja
