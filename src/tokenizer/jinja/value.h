// The values of a template: Python's, as far as a sandboxed template can meet them. Lists, tuples, dicts and strings
// never change once made (the sandbox of the reference forbids it), so values are shared freely; only namespaces,
// iterators, loops, cyclers and joiners have state.
#ifndef MOED_TOKENIZER_JINJA_VALUE_H_
#define MOED_TOKENIZER_JINJA_VALUE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tokenizer/jinja/budget.h"

namespace moed::jinja {

// Wide enough for every integer that JSON text can carry through our reader (64 bits, signed or unsigned); Python's
// are unbounded, an overflow here is an error.
using Integer = __int128;

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kRange,
  kDictView,  // dict.keys(), .values(), .items()
  kIterator,  // a generator: can be walked once
  kNamespace,
  kSlice,
  kCallable,  // functions, methods, macros, `loop`, cyclers and joiners
};

class Value;
struct StringObject;
struct SequenceObject;
struct DictObject;
struct UndefinedObject;

// What the larger kinds point to.
struct Object {
  virtual ~Object() = default;
  // Levels of nesting below and including this object. Bounded when an object is made, so that walking a value and
  // destroying it never recurse without end.
  int depth = 1;
};

class Value {
 public:
  Value() = default;  // none

  static Value Bool(bool value);
  static Value Int(Integer value);
  static Value Float(double value);
  static Value String(std::string text, bool markup = false);  // valid UTF-8
  // `message` is what an operation on the value will fail with.
  static Value Undefined(std::string message);
  static Value Of(Kind kind, std::shared_ptr<const Object> object);

  Kind kind() const { return kind_; }
  bool Is(Kind kind) const { return kind_ == kind; }
  bool IsUndefined() const { return kind_ == Kind::kUndefined; }
  bool IsNone() const { return kind_ == Kind::kNone; }
  bool IsString() const { return kind_ == Kind::kString; }
  bool IsInteger() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }  // as isinstance(x, int)
  bool IsNumber() const { return IsInteger() || kind_ == Kind::kFloat; }
  bool IsSequence() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }

  bool AsBool() const { return scalar_.boolean; }
  Integer AsInteger() const;  // of a bool or an int
  double AsDouble() const;    // of any number
  const std::string& AsString() const;
  const StringObject& string_object() const;
  const std::vector<Value>& items() const;  // of a list or tuple
  const DictObject& dict() const;
  const std::string& undefined_message() const;

  template <class T>
  const T& As() const {
    return static_cast<const T&>(*object_);
  }
  // Objects with state are made mutable and stay so; their constness here is that of a reference, not of the thing.
  template <class T>
  std::shared_ptr<T> Shared() const {
    return std::const_pointer_cast<T>(std::static_pointer_cast<const T>(object_));
  }
  const Object* object() const { return object_.get(); }
  int depth() const { return object_ == nullptr ? 0 : object_->depth; }

 private:
  struct Wide {
    uint64_t low;
    int64_t high;
  };
  union Scalar {
    Wide integer = {0, 0};
    bool boolean;
    double real;
  };

  Kind kind_ = Kind::kNone;
  Scalar scalar_;
  std::shared_ptr<const Object> object_;
};

struct StringObject : Object {
  std::string text;
  size_t length = 0;    // code points
  bool markup = false;  // made by |safe or |escape: joins with `+` escape the other side

  bool ascii() const { return length == text.size(); }
};

struct UndefinedObject : Object {
  std::string message;
};

struct SequenceObject : Object {
  std::vector<Value> items;
  bool group = false;  // a (grouper, list) pair of the filter groupby, with these two attributes
};

struct RangeObject : Object {
  int64_t start = 0;
  int64_t stop = 0;
  int64_t step = 1;
  int64_t size() const;
  int64_t At(int64_t index) const { return start + index * step; }
};

// Keys of any hashable kind, in the order of insertion.
struct DictObject : Object {
  const Value* Find(std::string_view key) const;
  // Fails as Python does for a key that cannot be hashed.
  const Value* Find(const Value& key, Budget& budget) const;

  std::vector<std::pair<Value, Value>> entries;
  std::unordered_multimap<size_t, uint32_t> index;  // hash of a key → entry; empty in a small dict
};

// Gathers the entries of a dict; a key that comes again keeps its place and gets the new value.
class DictBuilder {
 public:
  explicit DictBuilder(Budget& budget) : budget_(budget), dict_(std::make_shared<DictObject>()) {}
  void Set(Value key, Value value);
  void Set(std::string_view key, Value value) { Set(Value::String(std::string(key)), std::move(value)); }
  Value Finish();

 private:
  Budget& budget_;
  std::shared_ptr<DictObject> dict_;
};

struct DictViewObject : Object {
  enum class Part : uint8_t { kKeys, kValues, kItems };
  Value source;  // the dict
  Part part = Part::kKeys;
};

struct IteratorObject : Object {
  std::vector<Value> items;
  size_t next = 0;
  std::string type_name;
};

struct NamespaceObject : Object {
  std::vector<std::pair<std::string, Value>> attributes;
  bool printing = false;  // its repr is being made
  Value* Find(std::string_view name);
};

struct SliceObject : Object {
  Value start, stop, step;  // none where left out
};

// Makers that charge the budget and bound the depth.
Value MakeString(std::string text, Budget& budget, bool markup = false);
Value MakeSequence(Kind kind, std::vector<Value> items, Budget& budget);  // kList or kTuple
Value MakeList(std::vector<Value> items, Budget& budget);
Value MakeTuple(std::vector<Value> items, Budget& budget);
Value MakeIterator(std::vector<Value> items, Budget& budget, std::string_view type_name = "generator");
// Sets object->depth from `parts`, or fails where that is too deep.
void SetDepth(Object& object, const std::vector<Value>& parts, const Budget& budget);

// The name of the type as Python prints it: "str", "NoneType", "dict_items".
std::string_view TypeName(const Value& value);
bool Truthy(const Value& value);
// len(value), where it has one.
bool HasLength(const Value& value);
size_t Length(const Value& value);
bool IsIterable(const Value& value);

// The elements of anything that can be iterated over: characters, keys, pairs. Walks an iterator to its end. Fails as
// Python does for the rest.
std::vector<Value> Iterate(const Value& value, Budget& budget);

bool Equal(const Value& a, const Value& b, Budget& budget);
size_t Hash(const Value& value, Budget& budget);

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_VALUE_H_
