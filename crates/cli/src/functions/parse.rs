//! A command line of functions: what is called, with what.

use super::{
    model::{Argument, Function, Input, Model, Object, Returned, kebab, same_name},
    value::{self, Value},
};

/// A function that is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The type it is a function of.
    pub on: String,
    /// As the API spells it.
    pub function: String,
    /// In the order they were given.
    pub args: Vec<(String, Value)>,
}

/// What a command line asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// From the root on.
    pub calls: Vec<Call>,
    /// Where the result goes.
    pub output: Option<String>,
    /// The result is wanted as JSON.
    pub json: bool,
}

/// A flag of every command, which means nothing here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// With its dashes.
    pub name: String,
    /// A value follows.
    pub takes_value: bool,
}

/// Why there is nothing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Help is wanted for what was asked so far.
    Help {
        /// The command so far: `dagger core container`.
        command: String,
        /// What was asked so far.
        asked: Asked,
    },
    /// A mistake.
    Mistake {
        /// The command so far.
        command: String,
        /// What is wrong.
        message: String,
    },
}

/// Reads command lines.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    /// The API.
    pub model: &'a Model,
    /// The object whose functions come first.
    pub start: &'a Object,
    /// How the command is called: `dagger core`.
    pub program: &'a str,
    /// Flags of every command.
    pub known: &'a [Known],
}

struct State<'a> {
    reader: Reader<'a>,
    asked: Asked,
    command: String,
    /// The object whose functions may come next.
    here: Option<&'a Object>,
    /// The function whose flags may come next.
    function: Option<&'a Function>,
    /// The first function that lacks a flag, and what to say. Help goes first.
    lacking: Option<Stop>,
}

impl<'a> Reader<'a> {
    /// Understands the words after the command.
    ///
    /// # Errors
    /// Help, or a mistake.
    pub fn read(self, words: &[String]) -> Result<Asked, Stop> {
        let mut state = State {
            reader: self,
            asked: Asked::default(),
            command: self.program.to_owned(),
            here: Some(self.start),
            function: None,
            lacking: None,
        };
        let mut words = words.iter();
        let mut flags = true;
        while let Some(word) = words.next() {
            match word.strip_prefix('-') {
                Some("-") if flags => flags = false,
                Some(rest) if flags && !rest.is_empty() => match rest.strip_prefix('-') {
                    Some(long) => state.long(long, &mut words)?,
                    None => state.short(rest, &mut words)?,
                },
                _ => state.call(word)?,
            }
        }
        state.check();
        match state.lacking {
            Some(stop) => Err(stop),
            None if state.asked.calls.is_empty() => Err(Stop::Help {
                command: state.command,
                asked: state.asked,
            }),
            None => Ok(state.asked),
        }
    }
}

impl State<'_> {
    fn mistake(&self, message: String) -> Stop {
        self.lacking.clone().unwrap_or_else(|| Stop::Mistake {
            command: self.command.clone(),
            message,
        })
    }

    fn help(&self) -> Stop {
        Stop::Help {
            command: self.command.clone(),
            asked: self.asked.clone(),
        }
    }

    /// Remembers when the current function lacks flags.
    fn check(&mut self) {
        let (Some(function), Some(call)) = (self.function, self.asked.calls.last()) else {
            return;
        };
        let missing: Vec<_> = function
            .args
            .iter()
            .filter(|a| a.required() && !call.args.iter().any(|(name, _)| *name == a.name))
            .map(|a| format!("\"{}\"", kebab(&a.name)))
            .collect();
        if !missing.is_empty() && self.lacking.is_none() {
            let message = format!("required flag(s) {} not set", missing.join(", "));
            self.lacking = Some(self.mistake(message));
        }
    }

    fn call(&mut self, word: &str) -> Result<(), Stop> {
        let model = self.reader.model;
        let found = self.here.and_then(|object| {
            let function = find(object, word).filter(|f| model.callable(f))?;
            Some((object, function))
        });
        let Some((on, function)) = found else {
            let message = format!("unknown command \"{word}\" for \"{}\"", self.command);
            self.check();
            return Err(self.mistake(message));
        };
        self.check();
        self.asked.calls.push(Call {
            on: on.name.clone(),
            function: function.name.clone(),
            args: Vec::new(),
        });
        self.command.push(' ');
        self.command.push_str(&kebab(&function.name));
        self.function = Some(function);
        self.here = match model.returned(on, function) {
            Returned::Object(object) | Returned::Same(object) => Some(object),
            Returned::Value | Returned::Void => None,
        };
        Ok(())
    }

    fn long<'w>(
        &mut self,
        flag: &str,
        words: &mut impl Iterator<Item = &'w String>,
    ) -> Result<(), Stop> {
        let (name, given) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag, None),
        };
        let model = self.reader.model;
        let argument = self
            .function
            .and_then(|f| f.args.iter().find(|a| same_name(&a.name, name)))
            .and_then(|a| Some((a, model.input(&a.of)?)));
        if let Some((argument, input)) = argument {
            let text = match given {
                Some(text) => text,
                None if input == Input::Boolean && argument.of.lists == 0 => "true",
                None => self.value(&format!("--{name}"), words)?,
            };
            return self.set(argument, input, text);
        }
        match name {
            "help" => Err(self.help()),
            "json" => {
                self.asked.json = self.yes("--json", given)?;
                Ok(())
            }
            "output" => {
                let path = match given {
                    Some(path) => path,
                    None => self.value("--output", words)?,
                };
                self.asked.output = Some(path.to_owned());
                Ok(())
            }
            _ => {
                let full = format!("--{name}");
                let known = self.reader.known.iter().find(|k| k.name == full);
                match known {
                    None => Err(self.mistake(format!("unknown flag: {full}"))),
                    Some(known) if known.takes_value && given.is_none() => {
                        self.value(&full, words).map(|_| ())
                    }
                    Some(_) => Ok(()),
                }
            }
        }
    }

    /// Single letters, several of which may stand together.
    fn short<'w>(
        &mut self,
        letters: &str,
        words: &mut impl Iterator<Item = &'w String>,
    ) -> Result<(), Stop> {
        for (at, letter) in letters.char_indices() {
            let rest = letters.get(at + letter.len_utf8()..).unwrap_or_default();
            let value = rest.strip_prefix('=').unwrap_or(rest);
            match letter {
                'h' => return Err(self.help()),
                'j' => self.asked.json = true,
                'o' => {
                    let path = match value {
                        "" => self.value("-o", words)?,
                        value => value,
                    };
                    self.asked.output = Some(path.to_owned());
                    return Ok(());
                }
                _ => {
                    let name = format!("-{letter}");
                    let known = self.reader.known.iter().find(|k| k.name == name);
                    match known {
                        None => {
                            return Err(self.mistake(format!(
                                "unknown shorthand flag: '{letter}' in -{letters}"
                            )));
                        }
                        Some(known) if known.takes_value => {
                            if value.is_empty() {
                                self.value(&name, words)?;
                            }
                            return Ok(());
                        }
                        Some(_) => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn value<'w>(
        &self,
        flag: &str,
        words: &mut impl Iterator<Item = &'w String>,
    ) -> Result<&'w str, Stop> {
        words
            .next()
            .map(String::as_str)
            .ok_or_else(|| self.mistake(format!("flag needs an argument: {flag}")))
    }

    fn yes(&self, flag: &str, given: Option<&str>) -> Result<bool, Stop> {
        let Some(text) = given else { return Ok(true) };
        match value::one(Input::Boolean, text) {
            Ok(value) => Ok(value == Value::Literal("true".to_owned())),
            Err(why) => Err(self.mistake(invalid(text, flag, &why))),
        }
    }

    fn set(&mut self, argument: &Argument, input: Input<'_>, text: &str) -> Result<(), Stop> {
        let flag = format!("--{}", kebab(&argument.name));
        let wrong = |why: String| self.mistake(invalid(text, &flag, &why));
        let value = match argument.of.lists {
            0 => value::one(input, text).map_err(wrong)?,
            _ => Value::List(value::list(input, text).map_err(wrong)?),
        };
        let Some(call) = self.asked.calls.last_mut() else {
            return Ok(());
        };
        match (
            call.args.iter_mut().find(|(n, _)| *n == argument.name),
            value,
        ) {
            (Some((_, Value::List(values))), Value::List(more)) => values.extend(more),
            (Some((_, old)), value) => *old = value,
            (None, value) => call.args.push((argument.name.clone(), value)),
        }
        Ok(())
    }
}

fn invalid(text: &str, flag: &str, why: &str) -> String {
    format!("invalid argument {text:?} for \"{flag}\" flag: {why}")
}

fn find<'a>(object: &'a Object, word: &str) -> Option<&'a Function> {
    let exact = object.functions.iter().find(|f| f.name == word);
    exact.or_else(|| object.functions.iter().find(|f| same_name(&f.name, word)))
}
