#pragma once

#include <Python.h>

// Adds the type Watch to the module; false with an exception set where that fails.
bool add_watch(PyObject* module);
