// The check behind lightops/modules/_guard.py: is everything a fused chain depends on as it was? In Python this walk over
// a few hundred entries took 100 us of MobileNetV2's 3.9 ms at batch 1.
#include "guard.h"

#include <cstdint>
#include <cstring>

namespace {

// Strings of module dictionaries, interned once.
struct Names {
  PyObject* modules = PyUnicode_InternFromString("_modules");
  PyObject* forward = PyUnicode_InternFromString("forward");
  PyObject* data_ptr = PyUnicode_InternFromString("data_ptr");
  PyObject* version = PyUnicode_InternFromString("_version");
  PyObject* hooks[4] = {PyUnicode_InternFromString("_forward_hooks"), PyUnicode_InternFromString("_forward_pre_hooks"),
                        PyUnicode_InternFromString("_backward_hooks"),
                        PyUnicode_InternFromString("_backward_pre_hooks")};
};

const Names& names() {
  static const Names n;
  return n;
}

PyObject* item(PyObject* entry, Py_ssize_t i) { return PyTuple_GET_ITEM(entry, i); }

// own[kind].get(key), borrowed; null when missing.
PyObject* held(PyObject* own, PyObject* kind, PyObject* key) {
  PyObject* dict = PyDict_GetItemWithError(own, kind);
  return dict ? PyDict_GetItemWithError(dict, key) : nullptr;
}

// (parent's dict, key, module, class, module's dict): still that child, unhooked, with its class's forward.
bool link_holds(PyObject* e) {
  PyObject* own = item(e, 4);
  if (held(item(e, 0), names().modules, item(e, 1)) != item(e, 2)) return false;
  if (reinterpret_cast<PyObject*>(Py_TYPE(item(e, 2))) != item(e, 3)) return false;
  if (PyDict_GetItemWithError(own, names().forward)) return false;
  for (PyObject* name : names().hooks) {
    PyObject* hooks = PyDict_GetItemWithError(own, name);
    if (!hooks || !PyDict_Check(hooks) || PyDict_GET_SIZE(hooks)) return false;
  }
  return true;
}

// (module's dict, name, value, ...): attributes of the instance, still those.
bool fields_hold(PyObject* e) {
  for (Py_ssize_t i = 1; i + 1 < PyTuple_GET_SIZE(e); i += 2) {
    PyObject* now = PyDict_GetItemWithError(item(e, 0), item(e, i));
    if (!now || PyObject_RichCompareBool(now, item(e, i + 1), Py_EQ) != 1) return false;
  }
  return true;
}

// (getter, module, value).
bool attribute_holds(PyObject* e) {
  PyObject* now = PyObject_CallOneArg(item(e, 0), item(e, 1));
  if (!now) return false;
  const int same = PyObject_RichCompareBool(now, item(e, 2), Py_EQ);
  Py_DECREF(now);
  return same == 1;
}

// How a tensor of one class answers `data_ptr()` and `_version`: the C functions behind the two, so that neither is looked
// up by name, in the instance's own dict first, for every one of a few hundred tensors. Null where they are not C functions.
struct Access {
  PyTypeObject* type = nullptr;
  PyCFunction data_ptr = nullptr;
  getter version = nullptr;
  void* closure = nullptr;
};

Access access_of(PyTypeObject* type) {
  Access a;
  a.type = type;
  Py_INCREF(type);  // kept: its address stays its own
  PyObject* method = PyObject_GetAttr(reinterpret_cast<PyObject*>(type), names().data_ptr);
  PyObject* attribute = PyObject_GetAttr(reinterpret_cast<PyObject*>(type), names().version);
  if (method && attribute && Py_TYPE(method) == &PyMethodDescr_Type && Py_TYPE(attribute) == &PyGetSetDescr_Type) {
    const PyMethodDef* def = reinterpret_cast<PyMethodDescrObject*>(method)->d_method;
    const PyGetSetDef* field = reinterpret_cast<PyGetSetDescrObject*>(attribute)->d_getset;
    if (def->ml_flags == METH_NOARGS && field->get) {
      a.data_ptr = def->ml_meth;
      a.version = field->get;
      a.closure = field->closure;
    }
  }
  Py_XDECREF(method);
  Py_XDECREF(attribute);
  PyErr_Clear();
  return a;
}

// Parameters and buffers are of two classes; others take turns in the second place.
const Access& access(PyTypeObject* type) {
  static Access known[2];
  for (const Access& a : known)
    if (a.type == type) return a;
  Access& place = known[known[0].type ? 1 : 0];
  Py_XDECREF(place.type);
  place = access_of(type);
  return place;
}

PyObject* address_of(PyObject* tensor, const Access& a) {
  return a.data_ptr ? a.data_ptr(tensor, nullptr) : PyObject_CallMethodNoArgs(tensor, names().data_ptr);
}
PyObject* version_of(PyObject* tensor, const Access& a) {
  return a.version ? a.version(tensor, a.closure) : PyObject_GetAttr(tensor, names().version);
}

// (module's dict, kind, key, tensor, address, version): the same tensor, in the same place, never written to.
bool tensor_holds(PyObject* e) {
  PyObject* tensor = item(e, 3);
  if (held(item(e, 0), item(e, 1), item(e, 2)) != tensor) return false;
  const long version = PyLong_AsLong(item(e, 5));
  if (version < 0) return false;
  const Access& a = access(Py_TYPE(tensor));
  PyObject* address = address_of(tensor, a);
  if (!address) return false;
  const bool in_place = PyLong_AsVoidPtr(address) == PyLong_AsVoidPtr(item(e, 4));
  Py_DECREF(address);
  if (!in_place) return false;
  PyObject* current = version_of(tensor, a);
  if (!current) return false;
  const bool unwritten = PyLong_AsLong(current) == version;
  Py_DECREF(current);
  return unwritten;
}

// (module's dict, kind, key): still no tensor there.
bool absence_holds(PyObject* e) {
  PyObject* now = held(item(e, 0), item(e, 1), item(e, 2));
  return !now || now == Py_None;
}

// (memoryview of integers, index, word).
bool sample_holds(PyObject* e) {
  const Py_buffer* view = PyMemoryView_GET_BUFFER(item(e, 0));
  const char* word = static_cast<const char*>(view->buf) + PyLong_AsSsize_t(item(e, 1)) * view->itemsize;
  const long long want = PyLong_AsLongLong(item(e, 2));
  switch (view->itemsize) {
    case 8: {
      int64_t v;
      memcpy(&v, word, 8);
      return v == want;
    }
    case 4: {
      int32_t v;
      memcpy(&v, word, 4);
      return v == want;
    }
    case 2: {
      int16_t v;
      memcpy(&v, word, 2);
      return v == want;
    }
    default: {
      uint8_t v;
      memcpy(&v, word, 1);
      return v == want;
    }
  }
}

// What an entry points to was thrown out of the caches by the weights of the call before. It is asked for in steps, each
// some entries after the one that it goes through: the entry, its objects, what these hold. MobileNetV1's check after a call
// takes 40 us instead of 71, MobileNetV2's 57 instead of 73.
constexpr Py_ssize_t kApart = 4;
constexpr int kTableLines = 6, kTensorLines = 3;

void fetch_lines(const void* first, int lines) {
  for (int line = 0; line < lines; ++line) __builtin_prefetch(static_cast<const char*>(first) + line * 64);
}

void fetch_inner(PyObject* object) {
  if (PyDict_Check(object)) {
    fetch_lines(reinterpret_cast<PyDictObject*>(object)->ma_keys, kTableLines);
  } else if (Py_TYPE(object)->tp_basicsize >= Py_ssize_t(4 * sizeof(void*))) {
    // A tensor's object has the address of what it wraps in its fourth word; of anything else, a wrong guess is harmless.
    fetch_lines(reinterpret_cast<void**>(object)[3], kTensorLines);
  }
}

void fetch(PyObject* list, Py_ssize_t i) {
  const Py_ssize_t size = PyList_GET_SIZE(list);
  if (i + 3 * kApart < size) __builtin_prefetch(PyList_GET_ITEM(list, i + 3 * kApart));
  if (i + 2 * kApart < size) {
    PyObject* e = PyList_GET_ITEM(list, i + 2 * kApart);
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(e); ++k) __builtin_prefetch(item(e, k));
  }
  if (i + kApart < size) {
    PyObject* e = PyList_GET_ITEM(list, i + kApart);
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(e); ++k) fetch_inner(item(e, k));
  }
}

bool all(PyObject* list, bool (*holds)(PyObject*)) {
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); ++i) {
    fetch(list, i);
    if (!holds(PyList_GET_ITEM(list, i))) return false;
  }
  return true;
}

}  // namespace

bool guard_holds(PyObject* links, PyObject* fields, PyObject* attributes, PyObject* tensors, PyObject* absent,
                 PyObject* samples) {
  const bool ok = all(links, link_holds) && all(fields, fields_hold) && all(attributes, attribute_holds) &&
                  all(tensors, tensor_holds) && all(absent, absence_holds) && all(samples, sample_holds);
  PyErr_Clear();  // a failed look-up is an answer: something has changed
  return ok;
}
