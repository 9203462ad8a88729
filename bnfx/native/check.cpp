// The look at the parameters before each call: bnfx/weights/changes/snapshot.py, in one pass.
//
// What is compared lies side by side in arrays of this object, and what the tensors themselves hold is fetched ahead: a
// call finds cold caches, and then it is the misses that cost, not the comparisons.
//
// The interpreter lock is held throughout. The caller keeps the tensors and the memory that is compared alive.

#include <Python.h>

#include <c10/core/TensorImpl.h>
#include <torch/csrc/autograd/python_variable.h>

#include <cstdint>
#include <cstring>
#include <exception>
#include <vector>

#include "parts.h"

namespace {

constexpr int64_t kNoVersion = -1;  // of inference tensors, which count none
constexpr size_t kAhead = 12;       // tensors that are fetched ahead
constexpr ptrdiff_t kElementsAhead = 24;

struct Tensor {
  PyObject* object;
  const void* address;
  int64_t version;
};

// Elements of the same width at the same distance, compared with `held`, where they lie without gaps.
struct Piece {
  const char* live;
  const char* held;
  size_t count;
  size_t width;
  ptrdiff_t stride;
};

struct Check {
  PyObject_HEAD
  std::vector<Tensor>* tensors;
  std::vector<Piece>* pieces;
  PyObject* held;  // bytes
};

void fetch(const void* address) {
  __builtin_prefetch(address);
}

// Elements apart: each is a cache line of its own, so the misses are to overlap.
template <typename T>
bool are_same(const Piece& piece) {
  T differences = 0;
  for (size_t at = 0; at < piece.count; ++at) {
    const char* live = piece.live + static_cast<ptrdiff_t>(at) * piece.stride;
    fetch(live + kElementsAhead * piece.stride);  // never a fault, even past the end
    T now, then;
    std::memcpy(&now, live, sizeof(T));
    std::memcpy(&then, piece.held + at * sizeof(T), sizeof(T));
    differences |= now ^ then;
  }
  return differences == 0;
}

bool is_same(const Piece& piece) {
  if (static_cast<size_t>(piece.stride) == piece.width) {
    return std::memcmp(piece.live, piece.held, piece.count * piece.width) == 0;
  }
  switch (piece.width) {
    case 1:
      return are_same<uint8_t>(piece);
    case 2:
      return are_same<uint16_t>(piece);
    case 4:
      return are_same<uint32_t>(piece);
    default:
      return are_same<uint64_t>(piece);
  }
}

// The first lines of a piece: the processor finds the others by itself.
void fetch(const Piece& piece) {
  const ptrdiff_t step = static_cast<size_t>(piece.stride) == piece.width ? 64 : piece.stride;
  const char* end = piece.live + static_cast<ptrdiff_t>(piece.count) * piece.stride;
  for (ptrdiff_t at = 0; at < kElementsAhead && piece.live + at * step < end; ++at) {
    fetch(piece.live + at * step);
  }
}

bool content_holds(const std::vector<Piece>& pieces) {
  for (size_t at = 0; at < pieces.size(); ++at) {
    if (at + 1 < pieces.size()) {
      fetch(pieces[at + 1]);
    }
    if (!is_same(pieces[at])) {
      return false;
    }
  }
  return true;
}

const c10::TensorImpl* impl_of(PyObject* object) {
  return THPVariable_Unpack(object).unsafeGetTensorImpl();
}

// May throw what c10 throws where a tensor has no memory or counts no versions.
bool is_as_it_was(const Tensor& tensor) {
  const c10::TensorImpl* impl = impl_of(tensor.object);
  return impl->data() == tensor.address &&
      (tensor.version == kNoVersion ||
       static_cast<int64_t>(impl->version_counter().current_version()) == tensor.version);
}

bool tensors_hold(const std::vector<Tensor>& tensors) {
  const size_t count = tensors.size();
  for (size_t at = 0; at < count + 2 * kAhead; ++at) {
    if (at < count) {
      fetch(tensors[at].object);
    }
    if (at >= kAhead && at - kAhead < count) {
      const char* impl = reinterpret_cast<const char*>(impl_of(tensors[at - kAhead].object));
      fetch(impl);  // storage, version counter; the next lines: sizes, offset, type
      fetch(impl + 64);
      fetch(impl + 128);
    }
    if (at >= 2 * kAhead && !is_as_it_was(tensors[at - 2 * kAhead])) {
      return false;
    }
  }
  return true;
}

// Whether `given`, a tuple or list, holds the very tensors of this check.
bool are_these(const Check* self, PyObject* given) {
  const auto& tensors = *self->tensors;
  if (static_cast<size_t>(PySequence_Fast_GET_SIZE(given)) != tensors.size()) {
    return false;
  }
  PyObject** items = PySequence_Fast_ITEMS(given);
  for (size_t at = 0; at < tensors.size(); ++at) {
    if (items[at] != tensors[at].object) {
      return false;
    }
  }
  return true;
}

bool holds(const Check* self) {
  try {
    if (!tensors_hold(*self->tensors)) {
      return false;
    }
  } catch (const std::exception&) {
    return false;  // Python's check raises, which nobody catches as an answer; "changed" is right as well
  }
  // After the addresses: memory that moved may be gone.
  return content_holds(*self->pieces);
}

PyObject* is_of(PyObject* self, PyObject* given) {
  if (!PyTuple_Check(given) && !PyList_Check(given)) {
    PyErr_SetString(PyExc_TypeError, "is_of takes a tuple or list");
    return nullptr;
  }
  return PyBool_FromLong(are_these(reinterpret_cast<Check*>(self), given));
}

PyObject* still_holds(PyObject* self, PyObject*) {
  return PyBool_FromLong(holds(reinterpret_cast<Check*>(self)));
}

bool read_tensors(PyObject* objects, PyObject* signs, std::vector<Tensor>* tensors) {
  const Py_ssize_t count = PyTuple_GET_SIZE(objects);
  if (PyList_GET_SIZE(signs) != count) {
    PyErr_SetString(PyExc_ValueError, "one pair of address and version for each tensor");
    return false;
  }
  for (Py_ssize_t at = 0; at < count; ++at) {
    PyObject* object = PyTuple_GET_ITEM(objects, at);
    if (!THPVariable_Check(object)) {
      PyErr_SetString(PyExc_TypeError, "not a tensor");
      return false;
    }
    unsigned long long address = 0;
    long long version = 0;
    if (!PyArg_ParseTuple(PyList_GET_ITEM(signs, at), "KL", &address, &version)) {
      return false;
    }
    tensors->push_back({object, reinterpret_cast<const void*>(address), version});
  }
  return true;
}

bool read_pieces(PyObject* given, PyObject* held, std::vector<Piece>* pieces) {
  const char* next = PyBytes_AS_STRING(held);
  const char* end = next + PyBytes_GET_SIZE(held);
  for (Py_ssize_t at = 0; at < PyList_GET_SIZE(given); ++at) {
    unsigned long long address = 0;
    Py_ssize_t count = 0;
    Py_ssize_t width = 0;
    Py_ssize_t stride = 0;
    if (!PyArg_ParseTuple(PyList_GET_ITEM(given, at), "Knnn", &address, &count, &width, &stride)) {
      return false;
    }
    const bool has_width = width == 1 || width == 2 || width == 4 || width == 8;
    if (!has_width || count < 0 || count > (end - next) / width) {
      PyErr_SetString(PyExc_ValueError, "the bytes that are held are not those of the pieces");
      return false;
    }
    const char* live = reinterpret_cast<const char*>(address);
    pieces->push_back({live, next, static_cast<size_t>(count), static_cast<size_t>(width), stride});
    next += count * width;
  }
  if (next != end) {
    PyErr_SetString(PyExc_ValueError, "the bytes that are held are not those of the pieces");
    return false;
  }
  return true;
}

PyObject* make(PyTypeObject* type, PyObject* args, PyObject*) {
  PyObject *objects, *signs, *pieces, *held;
  if (!PyArg_ParseTuple(
          args, "O!O!O!S", &PyTuple_Type, &objects, &PyList_Type, &signs, &PyList_Type, &pieces, &held)) {
    return nullptr;
  }
  auto* self = reinterpret_cast<Check*>(type->tp_alloc(type, 0));
  if (self == nullptr) {
    return nullptr;
  }
  self->tensors = new std::vector<Tensor>();
  self->pieces = new std::vector<Piece>();
  Py_INCREF(held);
  self->held = held;
  if (!read_tensors(objects, signs, self->tensors) || !read_pieces(pieces, held, self->pieces)) {
    Py_DECREF(self);
    return nullptr;
  }
  return reinterpret_cast<PyObject*>(self);
}

void drop(PyObject* object) {
  auto* self = reinterpret_cast<Check*>(object);
  delete self->tensors;
  delete self->pieces;
  Py_XDECREF(self->held);
  Py_TYPE(object)->tp_free(object);
}

PyMethodDef methods[] = {
    {"is_of", is_of, METH_O, "Whether a tuple or list holds the very tensors."},
    {"still_holds", still_holds, METH_NOARGS, "Whether addresses, versions and content are as they were."},
    {nullptr, nullptr, 0, nullptr},
};

PyTypeObject check_type = {PyVarObject_HEAD_INIT(nullptr, 0)};

PyModuleDef module_definition = {PyModuleDef_HEAD_INIT, "bnfx_native", nullptr, -1, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit_bnfx_native() {
  check_type.tp_name = "bnfx_native.Check";
  check_type.tp_basicsize = sizeof(Check);
  check_type.tp_flags = Py_TPFLAGS_DEFAULT;
  check_type.tp_doc = "Check(tensors, [(address, version)], [(address, count, width, stride)], bytes)";
  check_type.tp_new = make;
  check_type.tp_dealloc = drop;
  check_type.tp_methods = methods;
  if (PyType_Ready(&check_type) < 0) {
    return nullptr;
  }
  PyObject* module = PyModule_Create(&module_definition);
  if (module == nullptr || PyModule_AddObjectRef(module, "Check", reinterpret_cast<PyObject*>(&check_type)) < 0 ||
      !add_watch(module) || !add_finite(module)) {
    Py_XDECREF(module);
    return nullptr;
  }
  return module;
}
