// The functions that a template can call by name.
#include <absl/time/time.h>

#include <ctime>
#include <map>

#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/evaluator.h"
#include "tokenizer/jinja/text.h"
#include "tokenizer/jinja/unicode.h"

namespace moed::jinja {
namespace {

// The sandbox of jinja2 makes no longer ranges.
constexpr int64_t kMaxRange = 100'000;

Value Range(Evaluator&, Arguments& arguments) {
  if (arguments.positional.empty()) Fail("range expected at least 1 argument, got 0");
  const bool one = arguments.positional.size() == 1;
  const Parameters parameters("range", {"start", "stop", "step"}, arguments);
  auto range = std::make_shared<RangeObject>();
  range->start = one ? 0 : parameters.Int(0, 0);
  range->stop = one ? parameters.Int(0, 0) : parameters.Int(1, 0);
  range->step = parameters.Int(2, 1);
  if (range->step == 0) Fail("range() arg 3 must not be zero");
  constexpr int64_t kBound = int64_t{1} << 61;  // so that differences do not overflow
  if (std::abs(range->start / 2) > kBound / 2 || std::abs(range->stop / 2) > kBound / 2 ||
      std::abs(range->step / 2) > kBound / 2 || range->size() > kMaxRange) {
    FailLimit("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).", kMaxRange);
  }
  return Value::Of(Kind::kRange, std::move(range));
}

// dict(mapping or pairs, **more).
Value MakeDict(std::string_view function, Evaluator& evaluator, Arguments& arguments) {
  if (arguments.positional.size() > 1) {
    Fail("{} expected at most 1 argument, got {}", function, arguments.positional.size());
  }
  DictBuilder dict(evaluator.budget());
  if (!arguments.positional.empty() && arguments.positional[0].Is(Kind::kDict)) {
    for (const auto& [key, value] : arguments.positional[0].dict().entries) dict.Set(key, value);
  } else if (!arguments.positional.empty()) {
    size_t index = 0;
    for (const Value& item : Iterate(arguments.positional[0], evaluator.budget())) {
      const std::vector<Value> pair = Iterate(item, evaluator.budget());
      if (pair.size() != 2) {
        Fail("dictionary update sequence element #{} has length {}; 2 is required", index, pair.size());
      }
      dict.Set(pair[0], pair[1]);
      ++index;
    }
  }
  for (const auto& [key, value] : arguments.keyword) dict.Set(key, value);
  return dict.Finish();
}

struct DictFunction : CallableObject {
  Value Call(Evaluator& evaluator, Arguments& arguments) override { return MakeDict("dict", evaluator, arguments); }

  std::optional<Value> Attribute(std::string_view attribute) override {
    if (attribute != "fromkeys") return std::nullopt;
    return MakeFunction("fromkeys", [](Evaluator& evaluator, Arguments& arguments) {
      const Parameters parameters("fromkeys", {"iterable", "value"}, arguments, 1);
      DictBuilder dict(evaluator.budget());
      for (const Value& key : Iterate(parameters[0], evaluator.budget())) dict.Set(key, parameters.Get(1, Value()));
      return dict.Finish();
    });
  }
};

Value Namespace(Evaluator& evaluator, Arguments& arguments) {
  const Value attributes = MakeDict("namespace", evaluator, arguments);
  auto object = std::make_shared<NamespaceObject>();
  for (const auto& [key, value] : attributes.dict().entries) {
    if (!key.IsString()) continue;  // could never be read as an attribute
    if (key.AsString().starts_with('_')) {
      Fail(
          "Chat templates cannot store underscore-prefixed attributes on a namespace, but got '{}'. Please rename the "
          "attribute.",
          key.AsString());
    }
    object->attributes.emplace_back(key.AsString(), value);
  }
  evaluator.budget().Allocate(sizeof(NamespaceObject));
  evaluator.Own(object);
  return Value::Of(Kind::kNamespace, std::move(object));
}

// Gives its values in turn: cycler("odd", "even").next().
struct Cycler : CallableObject, std::enable_shared_from_this<Cycler> {
  Value Call(Evaluator&, Arguments&) override { Fail("'Cycler' object is not callable"); }
  bool can_be_called() const override { return false; }
  std::string_view type_name() const override { return "Cycler"; }

  std::optional<Value> Attribute(std::string_view attribute) override {
    if (attribute == "current") return items[position];
    if (attribute == "pos") return Value::Int(static_cast<Integer>(position));
    auto self = shared_from_this();
    if (attribute == "next") {
      return MakeFunction(
          "next",
          [self](Evaluator&, Arguments& arguments) {
            const Parameters none("next", {}, arguments);
            Value current = self->items[self->position];
            self->position = (self->position + 1) % self->items.size();
            return current;
          },
          depth);
    }
    if (attribute == "reset") {
      return MakeFunction(
          "reset",
          [self](Evaluator&, Arguments& arguments) {
            const Parameters none("reset", {}, arguments);
            self->position = 0;
            return Value();
          },
          depth);
    }
    return std::nullopt;
  }

  std::vector<Value> items;
  size_t position = 0;
};

Value MakeCycler(Evaluator& evaluator, Arguments& arguments) {
  if (!arguments.keyword.empty()) Fail("cycler() takes no keyword arguments");
  if (arguments.positional.empty()) Fail("at least one item has to be provided");
  auto cycler = std::make_shared<Cycler>();
  evaluator.budget().AllocateRepeated(arguments.positional.size() + 2, sizeof(Value));
  SetDepth(*cycler, arguments.positional, evaluator.budget());
  cycler->items = std::move(arguments.positional);
  return Value::Of(Kind::kCallable, std::move(cycler));
}

// Gives "" at the first call and the separator at every other.
Value MakeJoiner(Evaluator& evaluator, Arguments& arguments) {
  const Parameters parameters("joiner", {"sep"}, arguments);
  const Value separator = parameters.Get(0, Value::String(", "));
  // A list of one keeps the depth of what the joiner holds within bounds.
  const Value holder = MakeTuple({separator}, evaluator.budget());
  auto used = std::make_shared<bool>(false);
  return MakeFunction(
      "joiner",
      [holder, used](Evaluator&, Arguments& call) {
        const Parameters none("joiner", {}, call);
        if (std::exchange(*used, true)) return holder.items()[0];
        return Value::String("");
      },
      holder.depth());
}

Value RaiseException(Evaluator& evaluator, Arguments& arguments) {
  const Parameters parameters("raise_exception", {"message"}, arguments, 1);
  throw RaisedByTemplate(Str(parameters[0], evaluator.budget()));
}

// datetime.now().strftime(format): local time. What datetime resolves by itself is resolved first: %f is microseconds,
// and a time without a zone has an empty %z and %Z.
Value StrftimeNow(Evaluator& evaluator, Arguments& arguments) {
  const Parameters parameters("strftime_now", {"format"}, arguments, 1);
  const std::string& wanted = parameters.String(0);
  if (wanted.size() > 1000) FailLimit("strftime_now's format has {} bytes; at most 1000 are allowed", wanted.size());
  const absl::Time now = evaluator.now();
  const int64_t micros = absl::ToUnixMicros(now);
  const time_t seconds = absl::ToTimeT(now);
  tm local{};
  localtime_r(&seconds, &local);
  std::string format;
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i] != '%' || i + 1 == wanted.size()) {
      format += wanted[i];
      continue;
    }
    const char letter = wanted[++i];
    if (letter == 'f') {
      format += fmt::format("{:06}", ((micros % 1'000'000) + 1'000'000) % 1'000'000);
    } else if (letter != 'z' && letter != 'Z') {
      format += '%';
      format += letter;
    }
  }
  // strftime() cannot tell "too long" from "empty", so the text is never empty.
  format += '.';
  std::string text(64 * 1024, '\0');
  evaluator.budget().Scan(text.size());
  const size_t size = std::strftime(text.data(), text.size(), format.c_str(), &local);
  if (size == 0) Fail("strftime_now: the format makes too long a text");
  text.resize(size - 1);
  if (!IsValidUtf8(text)) Fail("strftime_now: the format makes text that is not UTF-8");
  return MakeString(std::move(text), evaluator.budget());
}

}  // namespace

std::optional<Value> FindGlobal(std::string_view name) {
  if (name == "dict") {
    auto function = std::make_shared<DictFunction>();
    function->name = "dict";
    return Value::Of(Kind::kCallable, std::move(function));
  }
  using Function = Value (*)(Evaluator&, Arguments&);
  static const std::map<std::string_view, Function> kFunctions = {
      {"range", Range},
      {"namespace", Namespace},
      {"cycler", MakeCycler},
      {"joiner", MakeJoiner},
      {"raise_exception", RaiseException},
      {"strftime_now", StrftimeNow},
  };
  const auto it = kFunctions.find(name);
  if (it == kFunctions.end()) return std::nullopt;
  return MakeFunction(std::string(name), it->second);
}

}  // namespace moed::jinja
