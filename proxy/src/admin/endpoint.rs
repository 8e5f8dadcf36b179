//! One way to ask for something: a method and a path, what it needs and gives, and who answers.
//!
//! The list of them is the API: the router and its OpenAPI document are both made from it, so that
//! neither can say what the other does not.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Router,
    handler::Handler,
    http::Method,
    middleware,
    routing::{MethodFilter, MethodRouter, on},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    Admin, Problem,
    apps::VERBS,
    caller::{Scope, authorize},
};

/// Where schemas stand in an OpenAPI document.
const SCHEMAS: &str = "/components/schemas";

type MakeSchema = fn(&mut SchemaGenerator) -> Schema;

/// What an answer's body is.
#[derive(Clone, Copy)]
enum Body {
    None,
    Json(MakeSchema),
    Other(&'static [&'static str]),
}

/// One way to ask.
pub(super) struct Endpoint {
    method: Method,
    path: &'static str,
    scope: Scope,
    summary: &'static str,
    /// What may stand behind the `?`.
    query: Vec<MakeSchema>,
    takes: Option<(&'static str, MakeSchema)>,
    /// Bodies that are taken.
    examples: Vec<Value>,
    status: u16,
    /// Whether it may be tried, and is answered 200 then.
    may_be_tried: bool,
    gives: Body,
    /// Header fields that the request may have.
    headers: &'static [(&'static str, &'static str)],
    route: MethodRouter<Arc<Admin>>,
}

impl Endpoint {
    pub(super) fn new<H, T>(
        method: Method,
        path: &'static str,
        scope: Scope,
        summary: &'static str,
        answer: H,
    ) -> Self
    where
        H: Handler<T, Arc<Admin>>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("a usual method");
        Self {
            method,
            path,
            scope,
            summary,
            query: Vec::new(),
            takes: None,
            examples: Vec::new(),
            status: 200,
            may_be_tried: false,
            gives: Body::None,
            headers: &[],
            route: on(filter, answer),
        }
    }

    pub(super) fn asks<T: JsonSchema>(mut self) -> Self {
        self.query.push(SchemaGenerator::subschema_for::<T>);
        self
    }

    pub(super) fn takes<T: JsonSchema>(self) -> Self {
        self.takes_as::<T>("application/json")
    }

    pub(super) fn takes_as<T: JsonSchema>(self, kind: &'static str) -> Self {
        Self { takes: Some((kind, SchemaGenerator::subschema_for::<T>)), ..self }
    }

    /// A body that is taken.
    pub(super) fn such_as(mut self, example: Value) -> Self {
        self.examples.push(example);
        self
    }

    pub(super) fn gives<T: JsonSchema>(self) -> Self {
        Self { gives: Body::Json(SchemaGenerator::subschema_for::<T>), ..self }
    }

    pub(super) fn gives_other(self, kinds: &'static [&'static str]) -> Self {
        Self { gives: Body::Other(kinds), ..self }
    }

    pub(super) fn answers_with(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// With `dry_run` it is answered with 200, as nothing was made.
    pub(super) fn may_be_tried(self) -> Self {
        Self { may_be_tried: true, ..self }
    }

    pub(super) fn hears(self, headers: &'static [(&'static str, &'static str)]) -> Self {
        Self { headers, ..self }
    }

    fn document(&self, schemas: &mut SchemaGenerator) -> Value {
        let mut parameters: Vec<Value> =
            names_in(self.path).map(|name| in_path(self.path, name)).collect();
        parameters.extend(self.query.iter().flat_map(|query| query_parameters(*query)));
        parameters.extend(self.headers.iter().map(|(name, meaning)| {
            let mut field = parameter("header", name, false, &json!({"type": "string"}));
            field["description"] = (*meaning).into();
            field
        }));
        let mut answer = json!({"description": "As asked"});
        match self.gives {
            Body::None => {}
            Body::Json(schema) => {
                answer["content"]["application/json"]["schema"] = schema(schemas).to_value();
            }
            Body::Other(kinds) => {
                for kind in kinds {
                    answer["content"][*kind] = json!({"schema": {"type": "string"}});
                }
            }
        }
        let problem = schemas.subschema_for::<Problem>().to_value();
        let mut operation = json!({
            "operationId": self.id(),
            "summary": self.summary,
            "description": format!("Needs scope `{}`.", self.scope.word()),
            "parameters": parameters,
            "responses": {
                (self.status.to_string()): answer,
                "default": {
                    "description": "Why not",
                    "content": {"application/problem+json": {"schema": problem}},
                },
            },
        });
        if self.may_be_tried {
            operation["responses"]["200"] = operation["responses"][self.status.to_string()].clone();
        }
        if let Some((kind, schema)) = self.takes {
            let examples = self.examples.iter().zip(1..);
            let examples: Map<String, Value> = examples
                .map(|(example, number): (_, u32)| {
                    (number.to_string(), json!({ "value": example }))
                })
                .collect();
            let body = json!({ "schema": schema(schemas).to_value(), "examples": examples });
            operation["requestBody"] = json!({"required": true, "content": {(kind): body}});
        }
        operation
    }

    /// `get_apps_id_logs`.
    fn id(&self) -> String {
        let words = self.path.split(['/', '{', '}']).filter(|word| !matches!(*word, "" | "v1"));
        let words: Vec<_> = [self.method.as_str().to_lowercase()]
            .into_iter()
            .chain(words.map(str::to_owned))
            .collect();
        words.join("_")
    }
}

fn names_in(path: &'static str) -> impl Iterator<Item = &'static str> {
    path.split('{').skip(1).filter_map(|rest| rest.split('}').next())
}

/// A variable part of a path.
fn in_path(path: &str, name: &str) -> Value {
    let schema = match name {
        "verb" => json!({"enum": VERBS}),
        _ => json!({"type": "string"}),
    };
    let mut shown = parameter("path", name, true, &schema);
    shown["example"] = match (path, name) {
        (_, "id") => "blog".into(),
        (_, "verb") => "start".into(),
        (path, _) if path.starts_with("/v1/tokens") => "ci".into(),
        _ => "API_KEY".into(),
    };
    shown
}

fn parameter(place: &str, name: &str, required: bool, schema: &Value) -> Value {
    json!({"in": place, "name": name, "required": required, "schema": schema})
}

/// Each field of a query's type.
fn query_parameters(query: MakeSchema) -> Vec<Value> {
    // Types of queries are plain: nothing else refers to them.
    let mut own = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    own.meta_schema = None;
    let schema = query(&mut own.into_generator()).to_value();
    let required: BTreeSet<_> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let fields = schema["properties"].as_object().into_iter().flatten();
    fields
        .map(|(name, field)| {
            let mut shown = parameter("query", name, required.contains(name.as_str()), field);
            if let Some(meaning) = field.get("description") {
                shown["description"] = meaning.clone();
            }
            shown
        })
        .collect()
}

/// The router of all these.
pub(super) fn router(endpoints: Vec<Endpoint>, admin: &Arc<Admin>) -> Router<Arc<Admin>> {
    endpoints.into_iter().fold(Router::new(), |router, endpoint| {
        let state = (Arc::clone(admin), endpoint.scope);
        let guarded = endpoint.route.layer(middleware::from_fn_with_state(state, authorize));
        router.route(endpoint.path, guarded)
    })
}

/// What all these are, as OpenAPI 3.1 has it: <https://spec.openapis.org/oas/v3.1.1>.
pub(super) fn document(endpoints: &[Endpoint]) -> Value {
    let mut schemas = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = SCHEMAS.into())
        .into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in endpoints {
        let method = endpoint.method.as_str().to_lowercase();
        let operation = endpoint.document(&mut schemas);
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[method] = operation;
    }
    let schemas = schemas.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Doorbell",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What operators may ask of a running Doorbell. Whoever can open the Unix \
                            socket may ask for everything; over TCP a token is needed.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    })
}
