// Whether the numbers of an input are finite: bnfx/inner/engines/finite.py.
//
// They are summed in float, side by side: an infinity or NaN among them makes the sum infinite or NaN. The interpreter
// lock is held throughout; it is one pass over what the engine is about to read.

#include <Python.h>

#include <c10/core/TensorImpl.h>
#include <torch/csrc/autograd/python_variable.h>

#include <cmath>
#include <cstdint>
#include <exception>

#include "parts.h"

namespace {

constexpr int64_t kLanes = 32;  // sums side by side, which the compiler makes vectors of

template <typename T>
bool has_finite_sum(const T* values, int64_t count) {
  T sums[kLanes] = {};
  int64_t at = 0;
  for (; at + kLanes <= count; at += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      sums[lane] += values[at + lane];
    }
  }
  T sum = 0;
  for (; at < count; ++at) {
    sum += values[at];
  }
  for (const T lane : sums) {
    sum += lane;
  }
  return std::isfinite(sum);
}

// Plain memory of the processor's: no subclass, no view that negates, nothing lazy.
bool is_plain(const c10::TensorImpl* impl) {
  const auto plain = c10::DispatchKeySet(
      {c10::DispatchKey::CPU, c10::DispatchKey::ADInplaceOrView, c10::DispatchKey::AutogradCPU,
       c10::DispatchKey::AutocastCPU});
  return (impl->key_set().raw_repr() & ~plain.raw_repr()) == 0 && impl->is_non_overlapping_and_dense();
}

PyObject* sum_is_finite(PyObject*, PyObject* object) {
  if (!THPVariable_Check(object)) {
    PyErr_SetString(PyExc_TypeError, "not a tensor");
    return nullptr;
  }
  try {
    const c10::TensorImpl* impl = THPVariable_Unpack(object).unsafeGetTensorImpl();
    if (is_plain(impl)) {
      const auto dtype = impl->dtype().toScalarType();
      if (dtype == c10::ScalarType::Float) {
        return PyBool_FromLong(has_finite_sum(static_cast<const float*>(impl->data()), impl->numel()));
      }
      if (dtype == c10::ScalarType::Double) {
        return PyBool_FromLong(has_finite_sum(static_cast<const double*>(impl->data()), impl->numel()));
      }
    }
  } catch (const std::exception&) {
    // Without memory, say: it is not for this function.
  }
  Py_RETURN_NONE;
}

PyMethodDef functions[] = {
    {"sum_is_finite", sum_is_finite, METH_O,
     "Whether the sum of a tensor is finite; None if it is not plain memory of float32 or float64."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

bool add_finite(PyObject* module) {
  return PyModule_AddFunctions(module, functions) == 0;
}
