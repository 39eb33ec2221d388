#pragma once

#include <Python.h>

// Whether the entries of a lightops.modules._guard.Guard (lists of tuples, described there) all hold.
bool guard_holds(PyObject* links, PyObject* fields, PyObject* attributes, PyObject* tensors, PyObject* absent,
                 PyObject* samples);
