//! The Python module: arguments in, results and exceptions out. What the calls mean is written in `_native.pyi`.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyList};

use crate::aead::{self, Head, PEER_HEADER, TAIL};
use crate::runs;

#[pyclass(module = "easytier_host._native", frozen)]
struct Aead(aead::Aead);

#[pymethods]
impl Aead {
    #[new]
    fn new(algorithm: &str, key: &[u8]) -> PyResult<Aead> {
        let cipher = aead::Aead::new(algorithm, key);
        cipher.map(Aead).ok_or_else(|| PyValueError::new_err("no such algorithm, or a key of another size than its own"))
    }

    fn seal<'py>(
        &self,
        py: Python<'py>,
        head: &[u8],
        payloads: Vec<PyBackedBytes>,
        prefix: &[u8],
        counter: u32,
    ) -> PyResult<Bound<'py, PyList>> {
        let head: &Head = head.try_into().map_err(|_| PyValueError::new_err("the head of a frame has 12 bytes"))?;
        let prefix = prefix.try_into().map_err(|_| PyValueError::new_err("a nonce's prefix has 8 bytes"))?;
        let frames = PyList::empty(py);
        for (index, payload) in payloads.iter().enumerate() {
            let nonce =
                aead::nonce(prefix, counter, index).ok_or_else(|| PyValueError::new_err("the counter is at its end"))?;
            frames.append(PyBytes::new_with(py, PEER_HEADER + payload.len() + TAIL, |frame| {
                self.0.seal(head, payload, nonce, frame);
                Ok(())
            })?)?;
        }
        Ok(frames)
    }

    fn open<'py>(&self, py: Python<'py>, frames: Vec<PyBackedBytes>) -> PyResult<Bound<'py, PyList>> {
        let payloads = PyList::empty(py);
        for frame in &frames {
            let Some(size) = aead::Aead::opened_size(frame) else {
                payloads.append(py.None())?;
                continue;
            };
            let mut is_ours = false;
            let payload = PyBytes::new_with(py, size, |payload| {
                is_ours = self.0.open(frame, payload);
                Ok(())
            })?;
            if is_ours { payloads.append(payload)? } else { payloads.append(py.None())? }
        }
        Ok(payloads)
    }
}

#[pyfunction]
fn split<'py>(py: Python<'py>, frame: &[u8], mtu: usize) -> PyResult<Bound<'py, PyList>> {
    let packets = wire::frames::split_frame(frame, mtu).map_err(PyValueError::new_err)?;
    PyList::new(py, packets.iter().map(|packet| PyBytes::new(py, packet)))
}

#[pyfunction]
fn coalesce<'py>(py: Python<'py>, packets: Vec<PyBackedBytes>, own: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
    let is_own = |address: &[u8]| own.contains(PyBytes::new(py, address));
    let frames = PyList::empty(py);
    for frame in runs::coalesce(packets.iter().map(|packet| &**packet), is_own)? {
        frames.append(PyBytes::new_with(py, frame.size(), |target| {
            frame.write(target);
            Ok(())
        })?)?;
    }
    Ok(frames)
}

#[pymodule(name = "_native")]
fn native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Aead>()?;
    module.add_function(wrap_pyfunction!(split, module)?)?;
    module.add_function(wrap_pyfunction!(coalesce, module)?)
}
