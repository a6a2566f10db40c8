// A CUDA device made of the CPU, for a PyTorch that was built without CUDA.
//
// Its memory is the host's under another name, and each operator runs the CPU's kernel on the same
// bytes. It refuses what a real device refuses: tensors of two devices in one call; and, where waits
// are errors or a graph is captured, reading a number back or copying from memory that is not pinned.
// Sums round as on the CPU.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

using at::Tensor;
using c10::IValue;
using torch::jit::Stack;

constexpr auto CUDA = c10::DeviceType::CUDA;
const c10::Device DEVICE(CUDA, 0);

std::atomic<bool> waits_are_errors{false};
std::atomic<int64_t> held{0}, peak{0};  // bytes of the device's memory in use now and at most

void hold(int64_t bytes) {
  held += bytes;
  if (held > peak) peak = held.load();
}

/// The operations of a captured graph, on the memory that it was captured with.
using Graph = std::vector<std::function<void()>>;

/// A real capture launches nothing. This one runs everything, to know the results, and then
/// restores the memory.
struct Capture {
  Graph* graph;
  Tensor random;                 // the shared generator's state
  std::set<const void*> born;    // memory allocated during the capture
  std::map<const void*, std::pair<c10::Storage, std::vector<char>>> before;

  void about_to_write(const Tensor& tensor) {
    if (!tensor.defined() || !tensor.is_cuda() || !tensor.storage().nbytes()) return;
    const auto* data = static_cast<const char*>(tensor.storage().data());
    if (born.count(data) || before.count(data)) return;
    before[data] = {tensor.storage(), std::vector<char>(data, data + tensor.storage().nbytes())};
  }
  void put_back() {
    for (auto& [data, kept] : before)
      std::memcpy(kept.first.mutable_data(), kept.second.data(), kept.second.size());
  }
};
std::unique_ptr<Capture> capturing;

void wait(const std::string& what) {
  TORCH_CHECK(!waits_are_errors, "this waits for the device: ", what);
  TORCH_CHECK(!capturing, "not permitted while a graph is captured, it waits for the device: ", what);
}

struct Guard final : c10::impl::NoOpDeviceGuardImpl<CUDA> {
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Device getDevice() const override { return DEVICE; }
  c10::Stream getStream(c10::Device) const noexcept override { return stream(); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream(); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag)
      const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }

 private:
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
};

struct Random final : c10::GeneratorImpl {
  Random() : GeneratorImpl(DEVICE, c10::DispatchKeySet(c10::DispatchKey::CUDA)) {
    own = at::detail::createCPUGenerator();
  }
  void set_current_seed(uint64_t seed) override { own.set_current_seed(seed); }
  void set_offset(uint64_t) override { TORCH_CHECK(false, "no offsets here"); }
  uint64_t get_offset() const override { return 0; }
  uint64_t current_seed() const override { return own.current_seed(); }
  uint64_t seed() override { return own.seed(); }
  void set_state(const c10::TensorImpl& state) override { own.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return own.unsafeGetGeneratorImpl()->get_state();
  }
  static const at::Generator& shared() {
    static auto generator = at::make_generator<Random>();
    return generator;
  }
  at::Generator own;

 protected:
  GeneratorImpl* clone_impl() const override {
    auto* copy = new Random();
    copy->own = own.clone();
    return copy;
  }
};

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto* block = new Block{c10::GetCPUAllocator()->allocate(bytes), static_cast<int64_t>(bytes)};
    hold(block->bytes);
    if (capturing) capturing->born.insert(block->data.get());
    return {block->data.get(), block, &release, DEVICE};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }

 private:
  struct Block {
    c10::DataPtr data;
    int64_t bytes;
  };
  static void release(void* pointer) {
    auto* block = static_cast<Block*>(pointer);
    held -= block->bytes;
    delete block;
  }
} memory;

/// Host memory that the device may read asynchronously.
struct Pinned final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto* block = new c10::DataPtr(c10::GetCPUAllocator()->allocate(bytes));
    const std::lock_guard<std::mutex> guard(mutex);
    blocks[block->get()] = bytes;
    return {block->get(), block, &release, c10::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
  static bool holds(const void* data) {
    const std::lock_guard<std::mutex> guard(mutex);
    auto next = blocks.upper_bound(data);
    if (next == blocks.begin()) return false;
    --next;
    return static_cast<const char*>(data) < static_cast<const char*>(next->first) + next->second;
  }

 private:
  static void release(void* pointer) {
    auto* block = static_cast<c10::DataPtr*>(pointer);
    {
      const std::lock_guard<std::mutex> guard(mutex);
      blocks.erase(block->get());
    }
    delete block;
  }
  inline static std::mutex mutex;
  inline static std::map<const void*, size_t> blocks;
} pinned;

void release_storage(void* storage) { delete static_cast<c10::Storage*>(storage); }

struct Counted {
  c10::Storage storage;
  int64_t bytes;
};
void release_counted(void* pointer) {
  auto* counted = static_cast<Counted*>(pointer);
  held -= counted->bytes;
  delete counted;
}

/// Returns the same bytes as storage of another device.
c10::Storage rename(const c10::Storage& storage, c10::Device device) {
  const auto bytes = storage.nbytes();
  void* data = storage.mutable_data();
  c10::DataPtr pointer;
  if (device == DEVICE) {
    hold(static_cast<int64_t>(bytes));
    if (capturing) capturing->born.insert(data);
    pointer = {data, new Counted{storage, static_cast<int64_t>(bytes)}, &release_counted, device};
  } else {
    pointer = {data, new c10::Storage(storage), &release_storage, device};
  }
  auto* allocator = device == DEVICE ? static_cast<c10::Allocator*>(&memory) : c10::GetCPUAllocator();
  return {c10::Storage::use_byte_size_t(), bytes, std::move(pointer), allocator, true};
}

Tensor shaped_like(const Tensor& tensor, c10::Storage storage, c10::DispatchKey key) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(key), tensor.dtype());
  auto* impl = made.unsafeGetTensorImpl();
  impl->set_storage_offset(tensor.storage_offset());
  impl->set_sizes_and_strides(tensor.sizes(), tensor.strides());
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  return made;
}

struct Renamed {
  Tensor given, own;
};

/// One call of an operator, with its tensors as tensors of the CPU.
class Call {
 public:
  explicit Call(std::string name) : name_(std::move(name)) {}

  Tensor to_cpu(const Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (!tensor.is_cuda()) {
      if (tensor.dim() > 0) from_host_ = true;
      return tensor;
    }
    on_device_ = true;
    for (auto& pair : pairs_)
      if (pair.given.is_same(tensor)) return pair.own;
    c10::Storage storage;
    for (auto& pair : pairs_)
      if (pair.given.storage().is_alias_of(tensor.storage())) storage = pair.own.storage();
    if (!storage) storage = rename(tensor.storage(), c10::kCPU);
    auto own = shaped_like(tensor, storage, c10::DispatchKey::CPU);
    pairs_.push_back({tensor, own});
    return own;
  }

  IValue to_cpu(const IValue& value) {
    if (value.isTensor()) return to_cpu(value.toTensor());
    if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& tensor : value.toTensorVector()) list.push_back(to_cpu(tensor));
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (const auto& tensor : value.toOptionalTensorVector())
        list.push_back(tensor ? std::optional<Tensor>(to_cpu(*tensor)) : std::nullopt);
      return list;
    }
    if (value.isGenerator() && value.toGenerator().device().is_cuda()) {
      TORCH_CHECK(!capturing, "a generator other than the default one draws while a graph is captured");
      return value.toGenerator().get<Random>()->own;
    }
    if (value.isDevice() && value.toDevice().is_cuda()) return c10::Device(c10::kCPU);
    return value;
  }

  void check() const {
    static const std::set<std::string> mixed{
        "aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_", "aten::index_put"};
    TORCH_CHECK(
        !(on_device_ && from_host_) || mixed.count(name_),
        "Expected all tensors to be on the same device, but found at least two, cuda:0 and cpu: ",
        name_);
  }

  Tensor to_device(const Tensor& tensor) const {
    if (!tensor.defined() || !tensor.device().is_cpu()) return tensor;
    for (auto& pair : pairs_) {
      if (pair.own.is_same(tensor)) return pair.given;
      if (pair.own.storage().is_alias_of(tensor.storage()))
        return shaped_like(tensor, pair.given.storage(), c10::DispatchKey::CUDA);
    }
    return shaped_like(tensor, rename(tensor.storage(), DEVICE), c10::DispatchKey::CUDA);
  }

  IValue to_device(const IValue& value) const {
    if (value.isTensor()) return to_device(value.toTensor());
    if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& tensor : value.toTensorVector()) list.push_back(to_device(tensor));
      return list;
    }
    return value;
  }

  /// Applies the operator's changes to the shapes of its arguments (``out=``, in place).
  void keep_shapes() const {
    for (auto& pair : pairs_) {
      auto* given = pair.given.unsafeGetTensorImpl();
      if (pair.own.storage().data() != pair.given.storage().data())
        given->set_storage_keep_dtype(rename(pair.own.storage(), DEVICE));
      if (pair.own.sizes() != pair.given.sizes() || pair.own.strides() != pair.given.strides())
        given->set_sizes_and_strides(pair.own.sizes(), pair.own.strides());
    }
  }

 private:
  std::string name_;
  std::vector<Renamed> pairs_;
  bool on_device_ = false, from_host_ = false;
};

bool is_mask(const Tensor& tensor) {
  return tensor.defined() && (tensor.scalar_type() == at::kBool || tensor.scalar_type() == at::kByte);
}

void find_waits(const std::string& name, const Stack& stack, size_t arguments) {
  static const std::set<std::string> waiting{
      "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2",
      "aten::equal", "aten::unique_dim", "aten::bincount", "aten::repeat_interleave.Tensor",
      "aten::is_set_to", "aten::unique_consecutive", "aten::histc"};
  if (waiting.count(name)) wait(name);
  if (name.rfind("aten::index", 0) != 0 && name != "aten::_index_put_impl_") return;
  const auto* all = &stack[stack.size() - arguments];
  if (arguments < 2 || !all[1].isOptionalTensorList()) return;
  const bool fills = name != "aten::index.Tensor" && all[2].toTensor().numel() == 1;
  for (const auto& index : all[1].toOptionalTensorVector()) {
    if (!index || !index->defined()) continue;
    if (is_mask(*index) && !fills) wait(name + " by a mask");
    if (index->device().is_cpu()) wait(name + " by an index of the host");
  }
}

void about_to_write(const c10::Argument& argument, const IValue& value) {
  const auto* alias = argument.alias_info();
  // Batch normalisation writes its statistics, which its schema does not say.
  bool writes = argument.name() == "running_mean" || argument.name() == "running_var";
  writes |= alias && alias->isWrite();
  if (alias)
    for (const auto& inner : alias->containedTypes()) writes |= inner.isWrite();
  if (!writes) return;
  if (value.isTensor()) capturing->about_to_write(value.toTensor());
  if (value.isTensorList())
    for (const Tensor& tensor : value.toTensorVector()) capturing->about_to_write(tensor);
}

/// Runs an operator again, into the tensors that it returned.
void again(const c10::OperatorHandle& op, Stack arguments, const Stack& returned);

void on_the_cpu(const c10::OperatorHandle& op, Stack* stack) {
  const auto& schema = op.schema();
  const auto name = c10::toString(op.operator_name());
  const auto arguments = schema.arguments().size();
  find_waits(name, *stack, arguments);
  Stack given;
  if (capturing) {
    given.assign(stack->end() - static_cast<ptrdiff_t>(arguments), stack->end());
    for (size_t i = 0; i < arguments; ++i) about_to_write(schema.arguments()[i], given[i]);
  }
  Call call(name);
  for (size_t i = 0; i < arguments; ++i) {
    auto& value = (*stack)[stack->size() - arguments + i];
    const auto& type = schema.arguments()[i].type();
    const bool random = type->isSubtypeOf(*c10::OptionalType::create(c10::GeneratorType::get()));
    value = random && value.isNone() ? IValue(Random::shared().get<Random>()->own) : call.to_cpu(value);
  }
  call.check();
  op.callBoxed(stack);
  call.keep_shapes();
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); ++i)
    (*stack)[i] = call.to_device((*stack)[i]);
  if (capturing) {
    Stack returned(stack->end() - static_cast<ptrdiff_t>(schema.returns().size()), stack->end());
    capturing->graph->push_back([op, given, returned] { again(op, given, returned); });
  }
}

void write_over(const IValue& before, const IValue& now) {
  if (before.isTensorList()) {
    const auto all = before.toTensorVector(), other = now.toTensorVector();
    for (size_t i = 0; i < all.size(); ++i) write_over(all[i], other[i]);
  } else if (before.isTensor() && before.toTensor().defined()) {
    Tensor held_tensor = before.toTensor();
    if (held_tensor.data_ptr() != now.toTensor().data_ptr()) held_tensor.copy_(now.toTensor());
  }
}

void again(const c10::OperatorHandle& op, Stack arguments, const Stack& returned) {
  on_the_cpu(op, &arguments);
  for (size_t i = 0; i < returned.size(); ++i) write_over(returned[i], arguments[i]);
}

/// Convolves 16-bit numbers in float32: a CPU without instructions for them takes a hundred times
/// as long.
void convolve(const c10::OperatorHandle& op, Stack* stack) {
  const auto convert = [stack](size_t count, const auto& type_for) {
    for (size_t i = stack->size() - count; i < stack->size(); ++i) {
      IValue& value = (*stack)[i];
      if (!value.isTensor() || !value.toTensor().defined()) continue;
      const Tensor& tensor = value.toTensor();
      const at::ScalarType type = type_for(tensor.scalar_type());
      if (type != tensor.scalar_type()) value = tensor.to(type);
    }
  };
  std::optional<at::ScalarType> narrow;
  convert(op.schema().arguments().size(), [&](at::ScalarType type) {
    if (type != at::kBFloat16 && type != at::kHalf) return type;
    narrow = type;
    return at::kFloat;
  });
  on_the_cpu(op, stack);
  if (narrow)
    convert(op.schema().returns().size(), [&](at::ScalarType) { return *narrow; });
}

Tensor& copy(Tensor& to, const Tensor& from, bool non_blocking) {
  const bool between = to.device().is_cpu() || from.device().is_cpu();
  if (between && !non_blocking) wait("a copy between host and device");
  const Tensor& host = to.device().is_cpu() ? to : from;
  if (between && host.numel() && !Pinned::holds(host.const_data_ptr()))
    wait("a copy between the device and memory of the host that is not pinned");
  const auto run = [to, from] {
    Call call("aten::copy_");
    Tensor own = call.to_cpu(to);
    own.copy_(call.to_cpu(from));
  };
  if (capturing) {
    capturing->about_to_write(to);
    capturing->graph->push_back(run);
  }
  run();
  return to;
}

Tensor empty(
    c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(
      C10_AS_INTARRAYREF_SLOW(size), &memory, c10::DispatchKeySet(c10::DispatchKey::CUDA),
      c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(
    c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory,
      c10::DispatchKeySet(c10::DispatchKey::CUDA), c10::dtype_or_default(dtype));
}

Tensor as_strided(
    const Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
    std::optional<c10::SymInt> offset) {
  return at::native::as_strided_tensorimpl(
      self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
      offset ? std::optional<int64_t>(offset->guard_int(__FILE__, __LINE__)) : std::nullopt);
}

Tensor view(const Tensor& self, c10::SymIntArrayRef size) {
  return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
}

Tensor& set_storage(
    Tensor& self, c10::Storage storage, c10::SymInt offset, c10::SymIntArrayRef size,
    c10::SymIntArrayRef stride) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  impl->set_storage_offset(offset.guard_int(__FILE__, __LINE__));
  impl->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
  return self;
}

Tensor& set_whole_storage(Tensor& self, c10::Storage storage) {
  const c10::SymInt size(static_cast<int64_t>(storage.nbytes() / self.element_size())), one(1);
  return set_storage(self, std::move(storage), 0, size, one);
}

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  c10::DeviceIndex current_device() const override { return 0; }
  int getNumGPUs() const override { return 1; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return Random::shared();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    static bool asked = false;  // the first call is Python's, for the default generator
    return std::exchange(asked, true) ? at::make_generator<Random>() : Random::shared();
  }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned; }
  bool isPinnedPtr(const void* data) const override { return Pinned::holds(data); }
  void deviceSynchronize(c10::DeviceIndex) const override {}
};

}  // namespace

namespace at {
C10_REGISTER_TYPED_CLASS(CUDAHooksRegistry, "CUDAHooks", Hooks)
}

namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
}

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_the_cpu>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &as_strided);
  m.impl("view", &view);
  m.impl("copy_", &copy);
  m.impl("set_.source_Storage", &set_whole_storage);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  for (const char* name : {"convolution", "convolution_backward", "convolution_overrideable"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&convolve>());
}

// __init__.py has the rest of CUDA, in Python.
extern "C" {
void stand_in_waits(int are_errors) { waits_are_errors = are_errors != 0; }
int64_t stand_in_bytes() { return held; }
int64_t stand_in_peak() { return peak; }
void stand_in_reset_peak() { peak = held.load(); }
void* stand_in_capture() {
  auto* graph = new Graph;
  const auto random = Random::shared().get<Random>()->own.get_state();
  capturing = std::make_unique<Capture>(Capture{graph, random, {}, {}});
  return graph;
}
void stand_in_captured() {
  const auto done = std::exchange(capturing, nullptr);
  done->put_back();
  Random::shared().get<Random>()->own.set_state(done->random);
}
int stand_in_capturing() { return capturing != nullptr; }
void stand_in_forget(void* graph) { delete static_cast<Graph*>(graph); }
/// Returns 0, or -1 with the error in `message`.
int stand_in_replay(void* graph, char* message, size_t size) {
  try {
    c10::InferenceMode off(false);
    at::NoGradGuard no_grad;
    for (const auto& step : *static_cast<Graph*>(graph)) step();
    return 0;
  } catch (const std::exception& error) {
    std::snprintf(message, size, "%s", error.what());
    return -1;
  }
}
}
