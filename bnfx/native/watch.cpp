// Whether anything was assigned in a model since Dynamo's guards held: bnfx/direct/watched.py.
//
// Objects by type and by the dict of their attributes, types by their version, dicts by their items, functions by their
// code and defaults, cells by their content, tensors by what TENSOR_MATCH compares. The interpreter lock is held throughout. Everything that is compared with is kept alive, so that no address comes back.

#include <Python.h>

#include <c10/core/TensorImpl.h>
#include <torch/csrc/autograd/python_variable.h>

#include <cstdint>
#include <exception>
#include <vector>

#include "parts.h"

namespace {

constexpr size_t kAhead = 8;  // entries that are fetched ahead: a call finds cold caches

struct Object {
  PyObject* object;
  PyTypeObject* type;
  PyObject* attributes;  // its __dict__
};

struct Type {
  PyTypeObject* type;
  unsigned int version;
};

struct Dict {
  PyObject* dict;
  uint64_t tag;
  std::vector<PyObject*> items;  // key, value, key, value, ...
};

struct Metadata {
  PyObject* object;
  PyTypeObject* type;
  uint64_t keys;
  c10::ScalarType dtype;
  c10::Device device;
  bool requires_grad;
  std::vector<int64_t> sizes;  // and strides behind them
};

// What a function or a cell points to.
struct Pointer {
  PyObject* object;
  PyObject* target;
};

struct Watch {
  PyObject_HEAD
  std::vector<Object>* objects;
  std::vector<Type>* types;
  std::vector<Dict>* dicts;
  std::vector<Metadata>* tensors;
  std::vector<Pointer>* codes;
  std::vector<Pointer>* defaults;
  std::vector<Pointer>* named_defaults;
  std::vector<Pointer>* cells;
};

// Python counts assignments to a dict up to version 3.11; later ones are compared item by item.
uint64_t tag_of(PyObject* dict) {
#if PY_VERSION_HEX < 0x030C0000
  return reinterpret_cast<PyDictObject*>(dict)->ma_version_tag;
#else
  return 0;
#endif
}

bool has_same_items(const Dict& known) {
  if (static_cast<size_t>(PyDict_GET_SIZE(known.dict)) * 2 != known.items.size()) {
    return false;
  }
  Py_ssize_t at = 0;
  PyObject *key, *value;
  const PyObject* const* next = known.items.data();
  while (PyDict_Next(known.dict, &at, &key, &value)) {
    if (key != next[0] || value != next[1]) {
      return false;
    }
    next += 2;
  }
  return true;
}

bool dicts_hold(std::vector<Dict>& dicts) {
  for (size_t at = 0; at < dicts.size(); ++at) {
    if (at + kAhead < dicts.size()) {
      __builtin_prefetch(dicts[at + kAhead].dict);
    }
    Dict& known = dicts[at];
    const uint64_t tag = tag_of(known.dict);
    if (tag != 0 && tag == known.tag) {
      continue;
    }
    if (!has_same_items(known)) {
      return false;
    }
    known.tag = tag;
  }
  return true;
}

bool objects_hold(const std::vector<Object>& objects) {
  for (size_t at = 0; at < objects.size(); ++at) {
    if (at + kAhead < objects.size()) {
      __builtin_prefetch(objects[at + kAhead].object);
    }
    const Object& known = objects[at];
    if (Py_TYPE(known.object) != known.type) {
      return false;
    }
    PyObject* attributes = PyObject_GenericGetDict(known.object, nullptr);
    if (attributes == nullptr) {
      PyErr_Clear();
      return false;
    }
    Py_DECREF(attributes);  // the object holds it
    if (attributes != known.attributes) {
      return false;
    }
  }
  return true;
}

bool types_hold(const std::vector<Type>& types) {
  for (const Type& known : types) {
    if (known.version == 0 || known.type->tp_version_tag != known.version) {
      return false;
    }
  }
  return true;
}

bool pointers_hold(const std::vector<Pointer>& pointers, PyObject* (*target_of)(PyObject*)) {
  for (const Pointer& known : pointers) {
    if (target_of(known.object) != known.target) {
      return false;
    }
  }
  return true;
}

PyObject* content_of(PyObject* cell) {
  return PyCell_GET(cell);
}

void read_sizes(const c10::TensorImpl* impl, std::vector<int64_t>* sizes) {
  for (const int64_t size : impl->sizes()) {
    sizes->push_back(size);
  }
  for (const int64_t stride : impl->strides()) {
    sizes->push_back(stride);
  }
}

// May throw what c10 throws where a tensor has no sizes or strides.
bool is_as_it_was(const Metadata& known) {
  if (Py_TYPE(known.object) != known.type) {
    return false;
  }
  const c10::TensorImpl* impl = THPVariable_Unpack(known.object).unsafeGetTensorImpl();
  if (impl->key_set().raw_repr() != known.keys || impl->dtype().toScalarType() != known.dtype ||
      impl->device() != known.device || impl->requires_grad() != known.requires_grad) {
    return false;
  }
  const auto sizes = impl->sizes();
  if (sizes.size() * 2 != known.sizes.size()) {
    return false;
  }
  const auto strides = impl->strides();
  for (size_t at = 0; at < sizes.size(); ++at) {
    if (sizes[at] != known.sizes[at] || strides[at] != known.sizes[sizes.size() + at]) {
      return false;
    }
  }
  return true;
}

bool tensors_hold(const std::vector<Metadata>& tensors) {
  const size_t count = tensors.size();
  for (size_t at = 0; at < count + 2 * kAhead; ++at) {
    if (at < count) {
      __builtin_prefetch(tensors[at].object);
    }
    if (at >= kAhead && at - kAhead < count) {
      const char* impl =
          reinterpret_cast<const char*>(THPVariable_Unpack(tensors[at - kAhead].object).unsafeGetTensorImpl());
      __builtin_prefetch(impl);
      __builtin_prefetch(impl + 64);
      __builtin_prefetch(impl + 128);
    }
    if (at >= 2 * kAhead && !is_as_it_was(tensors[at - 2 * kAhead])) {
      return false;
    }
  }
  return true;
}

PyObject* holds(PyObject* object, PyObject*) {
  auto* self = reinterpret_cast<Watch*>(object);
  try {
    return PyBool_FromLong(
        types_hold(*self->types) && objects_hold(*self->objects) && dicts_hold(*self->dicts) &&
        pointers_hold(*self->codes, PyFunction_GetCode) && pointers_hold(*self->defaults, PyFunction_GetDefaults) &&
        pointers_hold(*self->named_defaults, PyFunction_GetKwDefaults) && pointers_hold(*self->cells, content_of) &&
        tensors_hold(*self->tensors));
  } catch (const std::exception&) {
    Py_RETURN_FALSE;  // "changed" is always right
  }
}

PyObject* kept(PyObject* object) {
  Py_INCREF(object);
  return object;
}

bool take_objects(PyObject* given, Watch* self) {
  for (Py_ssize_t at = 0; at < PyList_GET_SIZE(given); ++at) {
    PyObject* object = PyList_GET_ITEM(given, at);
    PyObject* attributes = PyObject_GenericGetDict(object, nullptr);
    if (attributes == nullptr) {
      return false;
    }
    PyTypeObject* type = Py_TYPE(object);
    Py_INCREF(type);
    self->objects->push_back({kept(object), type, attributes});
  }
  return true;
}

bool take_types(PyObject* given, Watch* self) {
  for (Py_ssize_t at = 0; at < PyList_GET_SIZE(given); ++at) {
    PyObject* object = PyList_GET_ITEM(given, at);
    if (!PyType_Check(object)) {
      PyErr_SetString(PyExc_TypeError, "not a type");
      return false;
    }
    auto* type = reinterpret_cast<PyTypeObject*>(kept(object));
    self->types->push_back({type, type->tp_version_tag});
  }
  return true;
}

bool take_dicts(PyObject* given, Watch* self) {
  for (Py_ssize_t at = 0; at < PyList_GET_SIZE(given); ++at) {
    PyObject* dict = PyList_GET_ITEM(given, at);
    if (!PyDict_Check(dict)) {
      PyErr_SetString(PyExc_TypeError, "not a dict");
      return false;
    }
    Dict known{kept(dict), tag_of(dict), {}};
    Py_ssize_t next = 0;
    PyObject *key, *value;
    while (PyDict_Next(dict, &next, &key, &value)) {
      known.items.push_back(kept(key));
      known.items.push_back(kept(value));
    }
    self->dicts->push_back(std::move(known));
  }
  return true;
}

bool take_tensors(PyObject* given, Watch* self) {
  for (Py_ssize_t at = 0; at < PyList_GET_SIZE(given); ++at) {
    PyObject* object = PyList_GET_ITEM(given, at);
    if (!THPVariable_Check(object)) {
      PyErr_SetString(PyExc_TypeError, "not a tensor");
      return false;
    }
    try {
      const c10::TensorImpl* impl = THPVariable_Unpack(object).unsafeGetTensorImpl();
      std::vector<int64_t> sizes;
      read_sizes(impl, &sizes);
      PyTypeObject* type = Py_TYPE(object);
      Py_INCREF(type);
      self->tensors->push_back(
          {kept(object), type, impl->key_set().raw_repr(), impl->dtype().toScalarType(), impl->device(),
           impl->requires_grad(), std::move(sizes)});
    } catch (const std::exception& error) {
      PyErr_SetString(PyExc_TypeError, error.what());
      return false;
    }
  }
  return true;
}

bool take_pointers(
    PyObject* given, PyTypeObject* type, PyObject* (*target_of)(PyObject*), std::vector<Pointer>* pointers) {
  for (Py_ssize_t at = 0; at < PyList_GET_SIZE(given); ++at) {
    PyObject* object = PyList_GET_ITEM(given, at);
    if (Py_TYPE(object) != type) {
      PyErr_SetString(PyExc_TypeError, "neither a function nor a cell");
      return false;
    }
    PyObject* target = target_of(object);
    Py_XINCREF(target);
    pointers->push_back({kept(object), target});
  }
  return true;
}

int visit(PyObject* object, visitproc visit, void* arg) {
  auto* self = reinterpret_cast<Watch*>(object);
  for (const Object& each : *self->objects) {
    Py_VISIT(each.object);
    Py_VISIT(each.type);
    Py_VISIT(each.attributes);
  }
  for (const Type& each : *self->types) {
    Py_VISIT(each.type);
  }
  for (const Dict& each : *self->dicts) {
    Py_VISIT(each.dict);
    for (PyObject* item : each.items) {
      Py_VISIT(item);
    }
  }
  for (const Metadata& each : *self->tensors) {
    Py_VISIT(each.object);
    Py_VISIT(each.type);
  }
  for (const auto* pointers : {self->codes, self->defaults, self->named_defaults, self->cells}) {
    for (const Pointer& each : *pointers) {
      Py_VISIT(each.object);
      Py_VISIT(each.target);
    }
  }
  return 0;
}

template <typename T>
std::vector<T> taken(std::vector<T>* from) {
  std::vector<T> all;
  all.swap(*from);  // what is let go of may run code that comes back here
  return all;
}

int clear(PyObject* object) {
  auto* self = reinterpret_cast<Watch*>(object);
  const auto objects = taken(self->objects);
  const auto types = taken(self->types);
  const auto dicts = taken(self->dicts);
  const auto tensors = taken(self->tensors);
  const std::vector<Pointer> pointers[] = {
      taken(self->codes), taken(self->defaults), taken(self->named_defaults), taken(self->cells)};
  // What remains says that nothing holds.
  self->types->push_back({nullptr, 0});
  for (const Object& each : objects) {
    Py_DECREF(each.object);
    Py_DECREF(each.type);
    Py_DECREF(each.attributes);
  }
  for (const Type& each : types) {
    Py_XDECREF(each.type);
  }
  for (const Dict& each : dicts) {
    Py_DECREF(each.dict);
    for (PyObject* item : each.items) {
      Py_DECREF(item);
    }
  }
  for (const Metadata& each : tensors) {
    Py_DECREF(each.object);
    Py_DECREF(each.type);
  }
  for (const auto& some : pointers) {
    for (const Pointer& each : some) {
      Py_DECREF(each.object);
      Py_XDECREF(each.target);
    }
  }
  return 0;
}

void drop(PyObject* object) {
  auto* self = reinterpret_cast<Watch*>(object);
  PyObject_GC_UnTrack(object);
  clear(object);
  delete self->objects;
  delete self->types;
  delete self->dicts;
  delete self->tensors;
  delete self->codes;
  delete self->defaults;
  delete self->named_defaults;
  delete self->cells;
  Py_TYPE(object)->tp_free(object);
}

PyObject* make(PyTypeObject* type, PyObject* args, PyObject*) {
  PyObject* given[6];
  if (!PyArg_UnpackTuple(args, "Watch", 6, 6, given, given + 1, given + 2, given + 3, given + 4, given + 5)) {
    return nullptr;
  }
  for (PyObject* each : given) {
    if (!PyList_Check(each)) {
      PyErr_SetString(PyExc_TypeError, "Watch takes six lists");
      return nullptr;
    }
  }
  auto* self = reinterpret_cast<Watch*>(type->tp_alloc(type, 0));
  if (self == nullptr) {
    return nullptr;
  }
  PyObject_GC_UnTrack(self);
  self->objects = new std::vector<Object>();
  self->types = new std::vector<Type>();
  self->dicts = new std::vector<Dict>();
  self->tensors = new std::vector<Metadata>();
  self->codes = new std::vector<Pointer>();
  self->defaults = new std::vector<Pointer>();
  self->named_defaults = new std::vector<Pointer>();
  self->cells = new std::vector<Pointer>();
  PyObject_GC_Track(self);
  if (!take_objects(given[0], self) || !take_types(given[1], self) || !take_dicts(given[2], self) ||
      !take_tensors(given[3], self) || !take_pointers(given[4], &PyFunction_Type, PyFunction_GetCode, self->codes) ||
      !take_pointers(given[4], &PyFunction_Type, PyFunction_GetDefaults, self->defaults) ||
      !take_pointers(given[4], &PyFunction_Type, PyFunction_GetKwDefaults, self->named_defaults) ||
      !take_pointers(given[5], &PyCell_Type, content_of, self->cells)) {
    Py_DECREF(self);
    return nullptr;
  }
  return reinterpret_cast<PyObject*>(self);
}

PyMethodDef methods[] = {
    {"holds", holds, METH_NOARGS, "Whether everything is as it was."},
    {nullptr, nullptr, 0, nullptr},
};

PyTypeObject watch_type = {PyVarObject_HEAD_INIT(nullptr, 0)};

}  // namespace

bool add_watch(PyObject* module) {
  watch_type.tp_name = "bnfx_native.Watch";
  watch_type.tp_basicsize = sizeof(Watch);
  watch_type.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC;
  watch_type.tp_doc = "Watch([object], [type], [dict], [tensor], [function], [cell])";
  watch_type.tp_new = make;
  watch_type.tp_dealloc = drop;
  watch_type.tp_traverse = visit;
  watch_type.tp_clear = clear;
  watch_type.tp_methods = methods;
  return PyType_Ready(&watch_type) == 0 &&
      PyModule_AddObjectRef(module, "Watch", reinterpret_cast<PyObject*>(&watch_type)) == 0;
}
