#pragma once

#include <Python.h>

// What is added to the module; false with an exception set where that fails.
bool add_watch(PyObject* module);   // the type Watch
bool add_finite(PyObject* module);  // the function sum_is_finite
