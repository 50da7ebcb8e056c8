//! The Python module: arguments in, results and exceptions out. What the calls mean is written in `_native.pyi`.

use pyo3::buffer::PyBuffer;
use pyo3::create_exception;
use pyo3::exceptions::{PyBufferError, PyException, PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use smoltcp::socket::tcp::CongestionControl;

use crate::config::{Config, check_buffer};
use crate::flow::{CloseReason, Event};
use crate::frames;
use crate::guard::{Gone, Guard};
use crate::packets::{self, Endpoint, Key};
use crate::stack::{self, Refusal, Sizes};

create_exception!(easytier_kcp_plugin._native, StackError, PyException);
create_exception!(easytier_kcp_plugin._native, LimitError, StackError);
create_exception!(easytier_kcp_plugin._native, AddressInUseError, StackError);
create_exception!(easytier_kcp_plugin._native, ClosedError, StackError);

type PyEndpoint = (PyBackedBytes, u16);
type StepResult<'py> = (Bound<'py, PyList>, Bound<'py, PyList>, Option<Vec<usize>>, Option<f64>);

#[pyclass(module = "easytier_kcp_plugin._native")]
struct Stack(Guard<stack::Stack>);

#[pymethods]
impl Stack {
    #[new]
    #[pyo3(signature = (*, mtu, seed, tso_max=0, vnet_header=false, verify_checksums=true, receive_buffer=262_144,
        send_buffer=262_144, congestion="cubic", keepalive=0.0, timeout=0.0, time_wait=1.0, max_connections=16_384,
        max_pending=1024, pending_ttl=30.0))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn new(
        mtu: usize,
        seed: u64,
        tso_max: usize,
        vnet_header: bool,
        verify_checksums: bool,
        receive_buffer: usize,
        send_buffer: usize,
        congestion: &str,
        keepalive: f64,
        timeout: f64,
        time_wait: f64,
        max_connections: usize,
        max_pending: usize,
        pending_ttl: f64,
    ) -> PyResult<Stack> {
        let config = Config {
            mtu,
            seed,
            tso_max,
            vnet_header,
            verify_checksums,
            receive_buffer,
            send_buffer,
            congestion: match congestion {
                "none" => CongestionControl::None,
                "reno" => CongestionControl::Reno,
                "cubic" => CongestionControl::Cubic,
                _ => return Err(PyValueError::new_err(format!("congestion is {congestion:?}, not none, reno or cubic"))),
            },
            keepalive: micros("keepalive", keepalive)?,
            timeout: micros("timeout", timeout)?,
            time_wait: micros("time_wait", time_wait)?,
            max_connections,
            max_pending,
            pending_ttl: micros("pending_ttl", pending_ttl)?,
        };
        config.check().map_err(PyValueError::new_err)?;
        Ok(Stack(Guard::new(stack::Stack::new(config))))
    }

    #[pyo3(signature = (packets, now, max_packets=64))]
    fn step<'py>(
        &mut self,
        py: Python<'py>,
        packets: Vec<PyBackedBytes>,
        now: f64,
        max_packets: usize,
    ) -> PyResult<StepResult<'py>> {
        let now = micros("now", now)?;
        let (unclaimed, deadline) =
            self.guarded(|stack| py.detach(|| Ok(stack.step(packets.iter().map(|packet| &**packet), now, max_packets))))?;
        self.0
            .call(|stack| {
                let output = PyList::new(py, stack.output().map(|packet| PyBytes::new(py, packet)))?;
                stack.clear_output();
                let events = PyList::empty(py);
                for event in stack.take_events() {
                    events.append(event_tuple(py, event)?)?;
                }
                let unclaimed = (!unclaimed.is_empty()).then_some(unclaimed);
                Ok((output, events, unclaimed, deadline.map(|at| at as f64 / 1e6)))
            })
            .map_err(failed)?
    }

    #[pyo3(signature = (pending, now, receive_buffer=None, send_buffer=None))]
    fn accept(&mut self, pending: u64, now: f64, receive_buffer: Option<usize>, send_buffer: Option<usize>) -> PyResult<u64> {
        let (now, sizes) = (micros("now", now)?, sizes(receive_buffer, send_buffer)?);
        self.guarded(|stack| stack.accept(pending, now, sizes))
    }

    #[pyo3(signature = (frame, now, receive_buffer=None, send_buffer=None))]
    fn accept_syn(
        &mut self,
        frame: &[u8],
        now: f64,
        receive_buffer: Option<usize>,
        send_buffer: Option<usize>,
    ) -> PyResult<u64> {
        let (now, sizes) = (micros("now", now)?, sizes(receive_buffer, send_buffer)?);
        self.guarded(|stack| stack.accept_syn(frame, now, sizes))
    }

    fn reject(&mut self, pending: u64, now: f64) -> PyResult<()> {
        let now = micros("now", now)?;
        self.guarded(|stack| stack.reject(pending, now))
    }

    fn decline<'py>(&mut self, py: Python<'py>, pending: u64) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.guarded(|stack| stack.decline(pending))?))
    }

    #[pyo3(signature = (source, destination, receive_buffer=None, send_buffer=None))]
    fn connect(
        &mut self,
        source: PyEndpoint,
        destination: PyEndpoint,
        receive_buffer: Option<usize>,
        send_buffer: Option<usize>,
    ) -> PyResult<u64> {
        let (source, destination) = (endpoint(&source)?, endpoint(&destination)?);
        let sizes = sizes(receive_buffer, send_buffer)?;
        self.guarded(|stack| stack.connect(source, destination, sizes))
    }

    fn send(&mut self, connection: u64, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        if let Ok(data) = data.cast::<PyBytes>() {
            return self.guarded(|stack| stack.send(connection, data.as_bytes()));
        }
        let buffer = PyBuffer::<u8>::get(data)?;
        let memory = buffer.as_slice_ptr().ok_or_else(|| PyBufferError::new_err("not contiguous"))?;
        // SAFETY: the buffer is held and the GIL too, so that nobody writes or frees the memory meanwhile.
        let bytes = unsafe { memory.as_ref() };
        self.guarded(|stack| stack.send(connection, bytes))
    }

    fn receive<'py>(&mut self, py: Python<'py>, connection: u64, max_bytes: usize) -> PyResult<Bound<'py, PyBytes>> {
        let length = self.guarded(|stack| stack.received(connection))?.min(max_bytes);
        PyBytes::new_with(py, length, |target| self.guarded(|stack| stack.receive(connection, target)).map(drop))
    }

    fn receive_into(&mut self, connection: u64, buffer: &Bound<'_, PyAny>) -> PyResult<usize> {
        let view = PyBuffer::<u8>::get(buffer)?;
        let mut memory =
            view.as_slice_ptr().filter(|_| !view.readonly()).ok_or_else(|| PyBufferError::new_err("not writable"))?;
        // SAFETY: as in `send`, and it may be written to.
        let target = unsafe { memory.as_mut() };
        let length = self.guarded(|stack| stack.received(connection))?.min(target.len());
        self.guarded(|stack| stack.receive(connection, &mut target[..length]))
    }

    fn finish(&mut self, connection: u64) -> PyResult<()> {
        self.guarded(|stack| {
            stack.finish(connection);
            Ok(())
        })
    }

    fn abort(&mut self, connection: u64) -> PyResult<()> {
        self.guarded(|stack| {
            stack.abort(connection);
            Ok(())
        })
    }

    fn info<'py>(&mut self, py: Python<'py>, connection: u64) -> PyResult<Bound<'py, PyDict>> {
        let (state, key, received, queued) = self.guarded(|stack| {
            let flow = stack.flow(connection)?;
            Ok((flow.state().to_string(), flow.key, flow.received(), flow.queued()))
        })?;
        let info = PyDict::new(py);
        info.set_item("state", state)?;
        info.set_item("local", endpoint_tuple(py, key.local)?)?;
        info.set_item("remote", endpoint_tuple(py, key.remote)?)?;
        info.set_item("received", received)?;
        info.set_item("queued", queued)?;
        Ok(info)
    }

    fn counters<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = PyDict::new(py);
        for (name, value) in self.guarded(|stack| Ok(stack.counters()))? {
            counters.set_item(name, value)?;
        }
        Ok(counters)
    }
}

impl Stack {
    fn guarded<R>(&mut self, call: impl FnOnce(&mut stack::Stack) -> Result<R, Refusal>) -> PyResult<R> {
        self.0.call(call).map_err(failed)?.map_err(refused)
    }
}

fn failed(_: Gone) -> PyErr {
    StackError::new_err("the TCP stack failed inside and lost its connections; what went wrong is on standard error")
}

fn refused(refusal: Refusal) -> PyErr {
    match refusal {
        Refusal::NotPending => PyKeyError::new_err("no such pending SYN"),
        Refusal::Limit => LimitError::new_err("no room for a further connection"),
        Refusal::AddressInUse => AddressInUseError::new_err("there is a connection between these ends"),
        Refusal::Closed => ClosedError::new_err("the connection has ended or its sending half is finished"),
        Refusal::Invalid(reason) => PyValueError::new_err(reason),
    }
}

fn micros(name: &str, seconds: f64) -> PyResult<u64> {
    // Rounded: cut off, a deadline would come back as a microsecond before itself. The bound keeps sums within 64 bits.
    if (0.0..=1e9).contains(&seconds) {
        Ok((seconds * 1e6).round() as u64)
    } else {
        Err(PyValueError::new_err(format!("{name} is {seconds}, not within 0 to 1e9 seconds")))
    }
}

fn sizes(receive: Option<usize>, send: Option<usize>) -> PyResult<Sizes> {
    for (name, size) in [("receive_buffer", receive), ("send_buffer", send)] {
        size.map_or(Ok(()), |size| check_buffer(name, size)).map_err(PyValueError::new_err)?;
    }
    Ok(Sizes { receive, send })
}

fn endpoint((packed, port): &PyEndpoint) -> PyResult<Endpoint> {
    let address = packets::address(packed).ok_or_else(|| PyValueError::new_err("an address has 4 or 16 bytes"))?;
    Ok((address, *port))
}

fn endpoint_tuple<'py>(py: Python<'py>, (address, port): Endpoint) -> PyResult<Bound<'py, PyTuple>> {
    let packed = match address {
        std::net::IpAddr::V4(address) => PyBytes::new(py, &address.octets()),
        std::net::IpAddr::V6(address) => PyBytes::new(py, &address.octets()),
    };
    (packed, port).into_pyobject(py)
}

fn event_tuple(py: Python<'_>, event: Event) -> PyResult<Bound<'_, PyTuple>> {
    let (kind, id) = match event {
        Event::Incoming(id, Key { local, remote }) => {
            let (source, destination) = (endpoint_tuple(py, remote)?, endpoint_tuple(py, local)?);
            return (pyo3::intern!(py, "incoming"), id, source, destination).into_pyobject(py);
        }
        Event::Closed(id, reason) => {
            let reason = match reason {
                CloseReason::Normal => pyo3::intern!(py, "normal"),
                CloseReason::Reset => pyo3::intern!(py, "reset"),
                CloseReason::Timeout => pyo3::intern!(py, "timeout"),
                CloseReason::Aborted => pyo3::intern!(py, "aborted"),
                CloseReason::Refused => pyo3::intern!(py, "refused"),
            };
            return (pyo3::intern!(py, "closed"), id, reason).into_pyobject(py);
        }
        Event::Withdrawn(id) => (pyo3::intern!(py, "withdrawn"), id),
        Event::Established(id) => (pyo3::intern!(py, "established"), id),
        Event::Readable(id) => (pyo3::intern!(py, "readable"), id),
        Event::Writable(id) => (pyo3::intern!(py, "writable"), id),
        Event::EndOfStream(id) => (pyo3::intern!(py, "end_of_stream"), id),
    };
    (kind, id).into_pyobject(py)
}

#[pyfunction]
fn split_frame<'py>(py: Python<'py>, frame: &[u8], mtu: usize) -> PyResult<Bound<'py, PyList>> {
    let packets = frames::split_frame(frame, mtu).map_err(PyValueError::new_err)?;
    PyList::new(py, packets.iter().map(|packet| PyBytes::new(py, packet)))
}

#[pyfunction]
fn complete_checksum<'py>(py: Python<'py>, frame: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    Ok(PyBytes::new(py, &frames::complete_checksum(frame).map_err(PyValueError::new_err)?))
}

#[pymodule(name = "_native")]
fn native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Stack>()?;
    module.add("StackError", module.py().get_type::<StackError>())?;
    module.add("LimitError", module.py().get_type::<LimitError>())?;
    module.add("AddressInUseError", module.py().get_type::<AddressInUseError>())?;
    module.add("ClosedError", module.py().get_type::<ClosedError>())?;
    module.add_function(wrap_pyfunction!(split_frame, module)?)?;
    module.add_function(wrap_pyfunction!(complete_checksum, module)?)
}
